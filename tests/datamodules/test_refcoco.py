"""RefCOCO, RefCOCO+ and RefCOCOg: expressions that name one object of a picture."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.datamodules.refcoco import _CONVERT
from tests.datamodules.annotated import (
    BOX,
    CORNERS,
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

PICTURE = "COCO_train2014_000000581857.jpg"


def reference(ref_id: int, ann_id: int, sentences: list[tuple[int, str]], **changes: Any) -> dict[str, Any]:
    """A reference in the published layout; its file name has a suffix that no picture has."""
    entry: dict[str, Any] = {
        "sent_ids": [number for number, _ in sentences],
        "file_name": f"COCO_train2014_000000581857_{ann_id}.jpg",
    }
    entry |= {"ann_id": ann_id, "ref_id": ref_id, "image_id": 581857, "split": "train", "category_id": 1}
    texts = [
        {"tokens": text.lower().split(), "raw": text, "sent_id": number, "sent": text.lower()}
        for number, text in sentences
    ]
    return entry | {"sentences": texts} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder such as REFER's data/refcoco, without references."""
    folder = tmp_path / "refcoco"
    save_pictures(tmp_path / "images" / "mscoco" / "images" / "train2014", PICTURE)
    polygon = [[value for corner in CORNERS for value in corner]]
    images = [{"id": 581857, "file_name": PICTURE, "height": HEIGHT, "width": WIDTH, "license": 1}]
    annotations = [
        {"id": 1719310, "image_id": 581857, "category_id": 1, "segmentation": polygon, "bbox": BOX, "iscrowd": 0},
        {"id": 2, "image_id": 581857, "category_id": 1, "segmentation": [], "bbox": [500, 0, 9, 9], "iscrowd": 0},
        {"id": 3, "image_id": 7, "category_id": 1, "segmentation": polygon, "bbox": BOX, "iscrowd": 0},
    ]
    categories = [{"supercategory": "person", "id": 1, "name": "person"}]
    content = {"info": {}, "licenses": [], "images": images, "annotations": annotations, "categories": categories}
    write_json(folder / "instances.json", content)
    return folder


REFERENCES = [
    reference(0, 1719310, [(0, "Navy blue shirt"), (1, "woman back")]),
    reference(1, 1719310, [(5, "red thing")], split="testA"),
]


def open_references(folder: Path, references: Any, *words: str) -> Any:
    path = write_json(folder / "refs(unc).json", references)
    return open_pairs("data.name=refcoco", f"data.path={path}", *words)


def test_a_row_per_expression(folder: Path) -> None:
    pairs = pairs_of(open_references(folder, REFERENCES))
    assert [(pair.key, pair.caption) for pair in pairs] == [
        ("refs(unc).json:0", "navy blue shirt"),
        ("refs(unc).json:1", "woman back"),
        ("refs(unc).json:5", "red thing"),
    ]
    for pair in pairs:
        assert pair.image == PICTURE
        assert box_of(pair) == BOX
        assert pair.truth is not None
        assert pair.truth.label == "person"
    assert_lies_in_cell(pairs[0])


def test_a_split_and_the_first_expression(folder: Path) -> None:
    source = open_references(folder, REFERENCES, "data.split=testA")
    assert [pair.caption for pair in pairs_of(source)] == ["red thing"]
    source = open_references(folder, REFERENCES, "data.one_caption=true")
    assert [pair.caption for pair in pairs_of(source)] == ["navy blue shirt", "red thing"]
    path = f"data.path={folder / 'refs(unc).json'}"
    error = opening_error("data.name=refcoco", path, "data.split=test")
    assert "refs(unc).json has no split 'test' (data.split): it has testA, train" in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 8}, "the image_id 8 is not among the images of instances.json"),
        ({"ann_id": 99}, "the ann_id 99 is no annotation of image 581857 in instances.json"),
        ({"ann_id": 3}, "the ann_id 3 is no annotation of image 581857 in instances.json"),
        (
            {"ann_id": 2},
            r"annotation 2 of instances.json: the box \[500, 0, 9, 9\] lies outside the picture of 120 x 60",
        ),
        ({"sentences": [{"sent_id": 5}]}, "sentence 5 of refs.unc..json: the caption must be text, got None"),
    ],
)
def test_a_broken_reference_is_a_failed_row(change: dict[str, Any], message: str, folder: Path) -> None:
    ((key, error),) = errors_of(open_references(folder, [REFERENCES[0], REFERENCES[1] | change])).items()
    assert key == "refs(unc).json:5"
    assert re.search(message, error)


def test_a_crowd_and_a_missing_picture(folder: Path) -> None:
    content = json.loads((folder / "instances.json").read_text())
    runs = {"size": [HEIGHT, WIDTH], "counts": [75 * HEIGHT + 15, *([15, HEIGHT - 15] * 15)[:-1], 30 * HEIGHT + 30]}
    content["annotations"][0] |= {"iscrowd": 1, "segmentation": runs}
    write_json(folder / "instances.json", content)
    assert box_of(pairs_of(open_references(folder, REFERENCES))[0]) == BOX
    (folder.parent / "images" / "mscoco" / "images" / "train2014" / PICTURE).unlink()
    errors = errors_of(open_references(folder, REFERENCES))
    assert len(errors) == 3
    assert all("does not exist" in error for error in errors.values())


def test_a_pickle_is_never_opened_and_the_advice_works(folder: Path) -> None:
    path = folder / "refs(unc).p"
    path.write_bytes(pickle.dumps(REFERENCES))
    error = opening_error("data.name=refcoco", f"data.path={path}")
    assert "is a pickle, which can run code when it is opened, and is never read" in error
    code = re.search(r'-c "(.*)"', error)
    assert code is not None
    assert code.group(0)[4:-1] in _CONVERT
    subprocess.run([sys.executable, "-c", code.group(1)], cwd=folder, check=True)
    assert len(open_pairs("data.name=refcoco", f"data.path={folder / 'refs(unc).json'}")) == 3


@pytest.mark.parametrize("content", [{"refs": []}, [1], [{"sentences": []}], [reference(1, 1, []) | {"sentences": 3}]])
def test_another_layout_is_refused(content: Any, folder: Path) -> None:
    path = write_json(folder / "refs.json", content)
    error = opening_error("data.name=refcoco", f"data.path={path}")
    assert "is not a file of RefCOCO's references: it must be a list of objects with 'ann_id', 'image_id'" in error


def test_the_objects_are_needed(tmp_path: Path) -> None:
    path = write_json(tmp_path / "refs.json", REFERENCES)
    error = opening_error("data.name=refcoco", f"data.path={path}")
    assert "data.name=refcoco needs the objects of the pictures: there is no file" in error


@pytest.mark.slow
def test_the_evaluation_says_for_how_many_pairs(folder: Path, tmp_path: Path) -> None:
    open_references(folder, [*REFERENCES, reference(2, 99, [(9, "a dog")])])
    table = evaluate(tmp_path / "run", "data.name=refcoco", f"data.path={folder / 'refs(unc).json'}")
    assert "(3 pairs)" in next(line for line in table.splitlines() if line.startswith("- image pointing:"))
