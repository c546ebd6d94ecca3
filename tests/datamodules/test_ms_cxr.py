"""MS-CXR: its CSV file with a row per box, and its JSON file in COCO's layout."""

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
    mask_of,
    open_pairs,
    opening_error,
    pairs_of,
    save_pictures,
    write_json,
)

HEADER = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height,split"
ONE = "files/p10/p10000032/s50414267/02aa804e-bde0afdd.jpg"
TWO = "files/p11/p11000032/s50414268/174413ec-4ec4c1f7.jpg"
SIZE = f"{2 * WIDTH},{2 * HEIGHT}"
"""Size of the original pictures; those of the fixture are half as large."""

ROWS = [
    f"02aa804e-bde0afdd,Pneumonia,patchy opacity,{ONE},150,30,30,30,{SIZE},train",
    f'02aa804e-bde0afdd,Edema,"edema, mild",{ONE},0,0,20,20,{SIZE},train',
    f"174413ec-4ec4c1f7,Pneumonia,patchy opacity,{TWO},0,0,10,20,{SIZE},test",
    f"174413ec-4ec4c1f7,Pneumonia,patchy opacity,{TWO},40,0,10.0,20,{SIZE},test",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of the pictures, with a CSV file in it."""
    save_pictures(tmp_path, ONE, TWO)
    write_csv(tmp_path, ROWS)
    return tmp_path


def write_csv(folder: Path, rows: list[str], header: str = HEADER) -> Path:
    path = folder / "MS_CXR_Local_Alignment_v1.1.0.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def open_file(path: Path, *words: str) -> Any:
    return open_pairs("data.name=ms-cxr", f"data.path={path}", *words)


NAME = "MS_CXR_Local_Alignment_v1.1.0"


def test_boxes_are_grouped_by_picture_and_sentence(folder: Path) -> None:
    opacity, edema, other = pairs_of(open_file(folder / f"{NAME}.csv"))
    assert [pair.key for pair in (opacity, edema, other)] == [f"{NAME}.csv:{row}" for row in (0, 1, 2)]
    assert [pair.caption for pair in (opacity, edema, other)] == ["patchy opacity", "edema, mild", "patchy opacity"]
    assert (opacity.image, other.image) == (ONE, TWO)
    assert box_of(opacity) == BOX  # the boxes are in pixels of the original picture
    assert_lies_in_cell(opacity)
    assert mask_of(other).sum() == 2 * 5 * 10
    assert opacity.truth is not None
    assert (opacity.truth.label, opacity.truth.resized) == ("Pneumonia", True)


def test_the_json_file_gives_the_same_pairs(folder: Path) -> None:
    images = [
        {"id": 3, "file_name": "02aa804e-bde0afdd.jpg", "path": ONE, "width": 240, "height": 120, "num_annotations": 2},
        {"id": 4, "file_name": "174413ec-4ec4c1f7.jpg", "path": TWO, "width": 240, "height": 120, "num_annotations": 2},
    ]
    rows = [(3, 1, "patchy opacity", [150, 30, 30, 30]), (3, 2, "edema, mild", [0, 0, 20, 20])]
    rows += [(4, 1, "patchy opacity", [0, 0, 10, 20]), (4, 1, "patchy opacity", [40, 0, 10, 20])]
    annotations = [
        {"id": 10 + k, "image_id": image, "category_id": category, "label_text": text, "bbox": box, "iscrowd": 0}
        for k, (image, category, text, box) in enumerate(rows)
    ]
    categories = [{"id": 1, "name": "Pneumonia"}, {"id": 2, "name": "Edema"}]
    content = {"info": {}, "licenses": [], "categories": categories, "images": images, "annotations": annotations}
    pairs = pairs_of(open_file(write_json(folder / f"{NAME}.json", content)))
    assert [pair.key for pair in pairs] == [f"{NAME}.json:{number}" for number in (10, 11, 12)]
    for pair, expected in zip(pairs, pairs_of(open_file(folder / f"{NAME}.csv")), strict=True):
        assert (pair.caption, pair.image) == (expected.caption, expected.image)
        assert (mask_of(pair) == mask_of(expected)).all()
    broken = [
        *annotations,
        {"id": 20, "image_id": 9, "category_id": 1, "label_text": "a", "bbox": BOX},
        {"id": 21, "image_id": 3, "category_id": 9, "label_text": "a", "bbox": BOX},
        {"id": 22, "image_id": 3, "category_id": 1, "label_text": "a"},
    ]
    errors = errors_of(open_file(write_json(folder / f"{NAME}.json", content | {"annotations": broken})))
    assert "annotation 20 of " in errors[f"{NAME}.json:20"]
    assert "the image_id 9 is not among the images" in errors[f"{NAME}.json:20"]
    assert "the category_id 9 is not among the categories" in errors[f"{NAME}.json:21"]
    assert "a box must be [left, top, width, height] in pixels, got None" in errors[f"{NAME}.json:22"]
    assert len(errors) == 3


def test_a_split_and_a_file_without_paths_and_sizes(folder: Path) -> None:
    source = open_file(folder / f"{NAME}.csv", "data.split=test")
    assert [source.key(k) for k in range(len(source))] == [f"{NAME}.csv:2"]
    save_pictures(folder, "02aa804e-bde0afdd.jpg")
    header = "dicom_id,category_name,label_text,x,y,w,h"
    path = write_csv(folder, ["02aa804e-bde0afdd,Pneumonia,opacity,75,15,15,15"], header)
    (pair,) = pairs_of(open_file(path))
    assert (pair.image, box_of(pair)) == ("02aa804e-bde0afdd.jpg", BOX)
    error = opening_error("data.name=ms-cxr", f"data.path={path}", "data.split=test")
    assert "has no split 'test' (data.split): it has no splits" in error


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (ROWS[0].replace("150,30", "240,30"), r"the box \['240', '30', '30', '30'\] lies outside the picture of 240 x"),
        (ROWS[0].replace("150,30,30", "a,30,30"), "a box must be"),
        (ROWS[0].replace("30,30,30", "30,0,30"), "is empty: its width and height must be above 0"),
        (ROWS[0].replace("240,120", "240,0"), "the size of the picture must be whole numbers above 0"),
        (
            ROWS[0].replace("150,30", "0,30").replace(SIZE, "120,240"),
            "the annotation is of a picture of 120 x 240 pixels, and the picture",
        ),
        (ROWS[0].replace(",train", ""), "line 2 of MS_CXR_Local_Alignment_v1.1.0.csv has 10 cells"),
        (ROWS[0].replace(".jpg", ".dcm"), "does not exist"),
    ],
)
def test_a_broken_row_costs_its_sentence(row: str, message: str, folder: Path) -> None:
    path = write_csv(folder, [row, *ROWS[1:]])
    ((key, error),) = errors_of(open_file(path)).items()
    assert key == f"{NAME}.csv:0"
    assert re.search(message, error)


def test_another_layout_is_refused(folder: Path) -> None:
    path = write_csv(folder, ["a,b"], "dicom_id,label_text")
    assert "is not an MS-CXR file: it has no column x, y, w, h" in opening_error(
        "data.name=ms-cxr", f"data.path={path}"
    )
    assert "data.name=ms-cxr needs MS-CXR's" in opening_error("data.name=ms-cxr", f"data.path={folder / ONE}")
    content = {"images": [], "categories": [], "annotations": [{"id": 1}]}
    path = write_json(folder / "a.json", content)
    assert "its annotations have no 'label_text'" in opening_error("data.name=ms-cxr", f"data.path={path}")


@pytest.mark.slow
def test_the_evaluation_says_for_how_many_pairs(folder: Path, tmp_path: Path) -> None:
    path = write_csv(folder, [*ROWS, ROWS[0].replace("02aa", "03aa")])
    table = evaluate(tmp_path / "run", "data.name=ms-cxr", f"data.path={path}")
    # a crop that is a square leaves out the masks of two pairs
    assert "(1 pairs, not defined for up to 2 more)" in next(
        line for line in table.splitlines() if line.startswith("- image pointing:")
    )
