"""All data sources: the error of a wrong one names the right one, and Conceptual Captions is read as published."""

from __future__ import annotations

import re
import shlex
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.cli import parse
from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import DATAMODULES
from tests import ROOT
from tests.datamodules.annotated import open_pairs, opening_error, write_json

COCO = {"images": [{"id": 1}], "annotations": [{"id": 1, "image_id": 1, "caption": "a dog"}]}
INSTANCES = COCO | {"annotations": [{"id": 1, "image_id": 1, "bbox": [0, 0, 1, 1]}]}
MS_CXR = COCO | {"annotations": [{"id": 1, "image_id": 1, "label_text": "opacity", "bbox": [0, 0, 1, 1]}]}
REFERENCES = [{"sentences": [], "ann_id": 1, "image_id": 1}]
LABELME = {"shapes": [], "imagePath": "a.jpg"}
LABEL_STUDIO = [{"id": 1, "data": {}, "annotations": []}]

FILES: dict[str, tuple[str, Any]] = {
    "captions_val2017.json": ("it is a COCO captions file: data.name=coco reads it", COCO),
    "instances_val2017.json": ("a COCO instances file, which has no captions (data.instances takes it)", INSTANCES),
    "cxr.json": ("it is an MS-CXR file: data.name=ms-cxr", MS_CXR),
    "cxr.csv": ("it is an MS-CXR file: data.name=ms-cxr", "dicom_id,label_text,path,x,y,w,h\na,b,c,0,0,1,1\n"),
    "refs.json": ("it is a file of RefCOCO's referring expressions: data.name=refcoco", REFERENCES),
    "refs.p": ("it is a pickle, which can run code and is never opened (docs/data.md converts it)", "x"),
    "regions.json": ("a file of Visual Genome's region descriptions: data.name=visual-genome", [{"regions": []}]),
    "a.json": ("it is annotated with LabelMe: data.name=labelme", LABELME),
    "project.json": ("it is an export of Label Studio: data.name=label-studio", LABEL_STUDIO),
}


@pytest.mark.parametrize("file", FILES)
def test_a_file_of_another_source_is_named(file: str, tmp_path: Path) -> None:
    message, content = FILES[file]
    path = tmp_path / file
    if isinstance(content, str):
        path.write_text(content)
    else:
        write_json(path, content)
    for name in ("captions", "visual-genome" if "visual-genome" not in message else "coco"):
        error = opening_error(f"data.name={name}", f"data.path={path}")
        assert f"data.name={name} does not read data.path=" in error
        assert message in error


def test_a_folder_of_another_source_is_named(tmp_path: Path) -> None:
    for name in ("Sentences", "Annotations"):
        (tmp_path / "entities" / name).mkdir(parents=True)
    error = opening_error(f"data.path={tmp_path / 'entities'}")
    assert "it is a Flickr30k Entities folder: data.name=flickr30k-entities reads it" in error
    write_json(tmp_path / "labels" / "a.json", LABELME)
    assert "data.name=labelme reads it" in opening_error(f"data.path={tmp_path / 'labels'}")


def test_a_file_that_no_source_knows_keeps_its_error(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.json", [{"b": 1}])
    assert opening_error("data.name=coco", f"data.path={path}").startswith(f"{str(path)!r} is not a COCO captions file")


def test_opening_listens_to_the_time_limit_and_to_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from m2ib_lightning.datamodules import coco_captions
    from m2ib_lightning.pairs.waiting import WAITING, Stopped

    over, begun = threading.Event(), threading.Event()

    def read(*_: Any) -> None:
        begun.set()
        over.wait(60)

    monkeypatch.setattr(coco_captions, "read_json", read)
    words = ["data.name=coco", f"data.path={write_json(tmp_path / 'captions.json', COCO)}"]
    error = opening_error(*words, "data.open_timeout=0.05")
    assert "was still being opened after 0.05 s (data.open_timeout)" in error

    def stop() -> None:
        begun.wait(60)
        signal.raise_signal(signal.SIGTERM)

    begun.clear()
    before = signal.signal(signal.SIGTERM, lambda *_: WAITING.ask(143))
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        with pytest.raises(Stopped):
            open_pairs(*words)
    finally:
        WAITING.status = None
        signal.signal(signal.SIGTERM, before)
        thread.join()
        over.set()


def test_conceptual_captions_as_published(tmp_path: Path) -> None:
    path = tmp_path / "Validation_GCC-1.1.0-Validation.tsv"
    path.write_text(
        'a very typical "bus" station\thttp://example.org/a.jpg\nsierra looked\thttps://example.org/b?x=1\n'
    )
    words = ["data.name=conceptual-captions", f"data.path={path}"]
    source = open_pairs(*words, "data.allow_urls=true")
    assert [(source.key(k), source[k].caption, source[k].image) for k in range(len(source))] == [
        (f"{path.name}:0", 'a very typical "bus" station', "http://example.org/a.jpg"),
        (f"{path.name}:1", "sierra looked", "https://example.org/b?x=1"),
    ]
    assert "has its pictures at URLs: data.allow_urls=true downloads them" in opening_error(*words)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("http://example.org/a.jpg\ta bus\n", "has the URL first, as Conceptual 12M has"),
        ("caption\turl\n", r"its first line is 'caption\\turl\\n'"),
        ("a,b\n", "must be a .tsv file whose lines are a caption, a tab, and a URL"),
    ],
)
def test_other_lists_of_urls_are_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "cc.tsv"
    path.write_text(content)
    error = opening_error("data.name=conceptual-captions", f"data.path={path}", "data.allow_urls=true")
    assert re.search(message, error)


def test_the_document_has_a_command_for_each_source() -> None:
    document = (ROOT / "docs" / "data.md").read_text()
    commands = re.findall(r"^\|[^|]*\| `python fit.py ([^`]*)` \|", document, flags=re.MULTILINE)
    configs = [parse(shlex.split(command)) for command in commands]
    assert {config.data.name for config in configs if isinstance(config, Config)} == set(DATAMODULES)
