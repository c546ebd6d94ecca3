"""Visual Genome's region descriptions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.annotated import (
    BOX,
    HEIGHT,
    WIDTH,
    assert_lies_in_cell,
    box_of,
    errors_of,
    evaluate,
    open_pairs,
    opening_error,
    pairs_of,
    save_pictures,
    write_json,
)


def region(identity: int, phrase: str, box: list[Any], image_id: int = 1) -> dict[str, Any]:
    """A region in the published layout."""
    x, y, width, height = box
    entry = {"region_id": identity, "width": width, "height": height, "image_id": image_id}
    return entry | {"phrase": phrase, "y": y, "x": x}


PICTURES = [
    {"regions": [region(1382, "the clock is green", BOX), region(1383, "a shade ", [-5, 50, 20, 20])], "id": 1},
    {"regions": [], "id": 2},
    {"regions": [region(9, "street light", [0, 0, 9, 9], 3)], "id": 3},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pictures(tmp_path, "VG_100K/1.jpg", "VG_100K_2/3.jpg")
    write_json(tmp_path / "region_descriptions.json", PICTURES)
    return tmp_path


def open_regions(folder: Path) -> Any:
    return open_pairs("data.name=visual-genome", f"data.path={folder / 'region_descriptions.json'}")


def write_sizes(folder: Path, scale: int = 1) -> None:
    sizes = {"width": scale * WIDTH, "height": scale * HEIGHT, "coco_id": None, "flickr_id": None, "url": ""}
    write_json(folder / "image_data.json", [{"image_id": number} | sizes for number in (1, 2, 3)])


@pytest.mark.parametrize("sizes", [False, True])
def test_a_row_per_region(sizes: bool, folder: Path) -> None:
    if sizes:
        write_sizes(folder)
    clock, shade, light = pairs_of(open_regions(folder))
    assert [pair.key for pair in (clock, shade, light)] == [f"region_descriptions.json:{k}" for k in (1382, 1383, 9)]
    assert (clock.caption, clock.image) == ("the clock is green", "VG_100K/1.jpg")
    assert (light.caption, light.image) == ("street light", "VG_100K_2/3.jpg")
    assert box_of(clock) == BOX
    assert_lies_in_cell(clock)
    assert box_of(shade) == [0, 50, 15, 10]  # regions that reach beyond the picture are common
    assert box_of(light) == [0, 0, 9, 9]


def test_a_smaller_copy_has_the_box_in_its_place(folder: Path) -> None:
    write_sizes(folder, scale=2)
    write_json(folder / "region_descriptions.json", [{"id": 1, "regions": [region(1, "a", [2 * v for v in BOX])]}])
    (pair,) = pairs_of(open_regions(folder))
    assert box_of(pair) == BOX


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (region(5, "a", [500, 0, 9, 9]), r"the box \[500, 0, 9, 9\] lies outside the picture of 120 x 60 pixels"),
        (region(5, "a", [0, 0, 0, 9]), "is empty: its width and height must be above 0"),
        (region(5, "a", [0, 0, None, 9]), "a box must be"),
        (region(5, "a", BOX, 8), "the image_id 8 is not among the images of image_data.json"),
        (region(5, 7, BOX), "the caption must be text, got 7"),  # type: ignore[arg-type]
        ({"region_id": 5, "phrase": "a"}, r"a box must be .*, got \[None, None, None, None\]"),
    ],
)
def test_a_broken_region_is_a_failed_row(broken: dict[str, Any], message: str, folder: Path) -> None:
    write_sizes(folder)
    write_json(folder / "region_descriptions.json", [*PICTURES, {"id": 1, "regions": [broken]}])
    ((key, error),) = errors_of(open_regions(folder)).items()
    assert key == "region_descriptions.json:5"
    assert re.match("region 5 of region_descriptions.json: .*" + message, error)


def test_missing_pictures_and_other_layouts(folder: Path) -> None:
    (folder / "VG_100K_2" / "3.jpg").unlink()
    ((_, error),) = errors_of(open_regions(folder)).items()
    assert "does not exist" in error
    path = write_json(folder / "other.json", [{"regions": [3]}])
    error = opening_error("data.name=visual-genome", f"data.path={path}")
    assert "is not a file of region descriptions: it must be a list of objects with a list 'regions'" in error


@pytest.mark.slow
def test_the_evaluation_says_for_how_many_pairs(folder: Path, tmp_path: Path) -> None:
    path = folder / "region_descriptions.json"
    table = evaluate(tmp_path / "run", "data.name=visual-genome", f"data.path={path}")
    assert "(1 pairs, not defined for up to 2 more)" in table  # the others lie outside the crop
