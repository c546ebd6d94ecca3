"""Paths of pictures in annotation files are read as those in tables."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.annotated import open_pairs, save_pictures, write_json


def open_coco(folder: Path, *names: Any) -> Any:
    images = [{"id": k, "file_name": name, "width": 120, "height": 60} for k, name in enumerate(names)]
    captions = [{"id": k, "image_id": k, "caption": "a dog"} for k in range(len(names))]
    path = write_json(folder / "captions.json", {"images": images, "annotations": captions})
    return open_pairs("data.name=coco", f"data.path={path}", f"data.image_root={folder}")


def test_every_way_to_write_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save_pictures(tmp_path, "deep/a.png", "home/b.png")
    whole = tmp_path / "deep" / "a.png"
    written = ["deep/a.png", "deep\\a.png", " deep/a.png ", "~/b.png", whole.as_uri(), str(whole)]
    source = open_coco(tmp_path, *written)
    expected = [whole, whole, whole, tmp_path / "home" / "b.png", whole, whole]
    assert [source[k].image for k in range(len(source))] == expected
    assert [source[k].uri for k in range(len(source))] == written


def test_urls_and_pictures_inside_the_file(tmp_path: Path) -> None:
    save_pictures(tmp_path, "a.png")
    content = (tmp_path / "a.png").read_bytes()
    inside = "data:image/png;base64," + base64.b64encode(content).decode()
    source = open_coco(tmp_path, "https://example.org/a.png", inside)
    assert source[0].image == "https://example.org/a.png"
    assert (source[1].image, source[1].uri) == (content, "captions.json:1")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("C:\\pictures\\a.png", "is a whole path of Windows"),
        ("~someone/a.png", "is in the home of another user"),
        ("file://host/a.png", "is on another machine"),
        ("data:image/png", "is a data: URI without a comma"),
    ],
)
def test_a_refused_path_names_its_annotation(path: str, message: str, tmp_path: Path) -> None:
    error = open_coco(tmp_path, "a.png", path)[1].error
    assert error.startswith("annotation 1 of captions.json: the image ")
    assert message in error


def test_paths_of_labelme_and_label_studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    save_pictures(tmp_path, "labels/pictures/a.png", "home/b.png")
    near, far = tmp_path / "labels" / "pictures" / "a.png", tmp_path / "home" / "b.png"
    written = ["..\\pictures\\a.png", "~/b.png", far.as_uri(), str(near), "C:\\pictures\\a.png"]
    for number, path in enumerate(written):
        content = {"caption": "x", "shapes": [], "imagePath": path, "imageWidth": 120, "imageHeight": 60}
        write_json(tmp_path / "labels" / "deep" / f"{number}.json", content)
    source = open_pairs("data.name=labelme", f"data.path={tmp_path / 'labels'}")
    found = [Path(str(source[k].image)).resolve() for k in range(4)]
    assert found == [near.resolve(), far.resolve(), far.resolve(), near.resolve()]
    assert "whole path of Windows" in str(source[4].error)
    tasks = [{"id": k, "data": {"image": path, "caption": "x"}} for k, path in enumerate(["~/b.png", far.as_uri()])]
    project = write_json(tmp_path / "project.json", [task | {"annotations": []} for task in tasks])
    source = open_pairs("data.name=label-studio", f"data.path={project}")
    assert [source[k].image for k in range(2)] == [far, far]
