"""Exports of LabelMe and Label Studio with captions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.datamodules.annotated import (
    BOX,
    CORNERS,
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


def shape(label: str, points: Any, kind: str = "polygon", description: str | None = "") -> dict[str, Any]:
    """A shape of LabelMe."""
    entry = {"label": label, "points": points, "group_id": None, "description": description, "shape_type": kind}
    return entry | {"flags": {}, "mask": None}


def labelme(shapes: list[Any], **changes: Any) -> dict[str, Any]:
    """A file of LabelMe."""
    entry: dict[str, Any] = {
        "version": "5.4.1",
        "flags": {},
        "shapes": shapes,
        "imagePath": "..\\pictures\\a.jpg",
        "imageData": None,
    }
    return entry | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | changes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_pictures(tmp_path / "pictures", "a.jpg")
    return tmp_path


def open_labelme(folder: Path, *contents: Any) -> Any:
    for number, content in enumerate(contents):
        write_json(folder / "labels" / f"{number}.json", content)
    return open_pairs("data.name=labelme", f"data.path={folder / 'labels'}")


DOG = shape("dog", CORNERS)
CAT = shape("cat", [[2, 5], [12, 0]], "rectangle")


def test_the_shapes_that_the_caption_of_a_file_names(folder: Path) -> None:
    contents = [
        labelme([DOG, CAT], caption="two dogs"),
        labelme([DOG, CAT], caption="a cat"),
        labelme([DOG, CAT], caption="animals"),
        labelme([DOG], caption="an animal"),
    ]
    dogs, cat, unknown, only = pairs_of(open_labelme(folder, *contents))
    assert [pair.key for pair in (dogs, cat, unknown, only)] == [f"labels:{k}" for k in range(4)]
    assert dogs.image == "../pictures/a.jpg"
    assert box_of(dogs) == box_of(only) == BOX
    assert_lies_in_cell(dogs)
    assert box_of(cat) == [2, 0, 10, 5]
    assert unknown.truth is None


def test_a_row_per_description(folder: Path) -> None:
    shapes = [
        shape("opacity", CORNERS, description="patchy opacity"),
        shape("opacity", [[0, 0], [4, 4]], "rectangle", "patchy opacity"),
        shape("nodule", [[20, 20], [26, 20]], "circle", "a nodule"),
        shape("nodule", CORNERS, description=None),
    ]
    opacity, nodule = pairs_of(open_labelme(folder, labelme(shapes)))
    assert [(pair.key, pair.caption) for pair in (opacity, nodule)] == [
        ("labels:0.0", "patchy opacity"),
        ("labels:0.2", "a nodule"),
    ]
    assert mask_of(opacity).sum() == 225 + 16
    disc = mask_of(nodule)
    assert disc[14:26, 14:26].sum() == disc.sum() == pytest.approx(3.14159 * 36, rel=0.03)
    assert nodule.truth is not None
    assert nodule.truth.label == "nodule"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (labelme([shape("dog", [[1, 1]], "point")], caption="dog"), r"shapes\[0\] of 1.json: a shape of type 'point'"),
        (labelme([shape("dog", [[1, 1], [2]])], caption="dog"), r"points must be a list of \[x, y\]"),
        (labelme([shape("dog", [[1, 1], [1, 1]], "rectangle")], caption="dog"), "the rectangle of 0 x 0 is empty"),
        (labelme([shape("dog", [[500, 1], [510, 9]], "rectangle")], caption="dog"), "lies outside the picture of 120"),
        (labelme([DOG], caption="dog", imageWidth=None), "the size of the picture must be whole numbers above 0"),
        (labelme([DOG], caption="dog", imagePath=None), "imagePath must be text, got None"),
        (labelme([DOG], caption="dog", imagePath="b.jpg"), "does not exist"),
        (labelme([DOG], caption=7), "the caption must be text, got 7"),
        (labelme([DOG]), r"1.json: it has no field 'caption' \(data.text_column\), and no shape has a description"),
        ({"shapes": 3}, "is not a LabelMe file: it needs a list 'shapes'"),
    ],
)
def test_a_broken_file_is_a_failed_row(content: Any, message: str, folder: Path) -> None:
    ((key, error),) = errors_of(open_labelme(folder, labelme([DOG], caption="dog"), content)).items()
    assert key == "labels:1"
    assert re.search(message, error)


def test_a_folder_without_captions_is_refused(folder: Path) -> None:
    write_json(folder / "labels" / "0.json", labelme([DOG]))
    error = opening_error("data.name=labelme", f"data.path={folder / 'labels'}")
    assert re.search("has no captions: it has no field 'caption'", error)


def result(kind: str, identity: str, **value: Any) -> dict[str, Any]:
    """A region of Label Studio, in percent."""
    entry = {"original_width": WIDTH, "original_height": HEIGHT, "image_rotation": 0, "value": value, "id": identity}
    return entry | {"from_name": "label", "to_name": "image", "type": kind, "origin": "manual"}


def text(words: str, identity: str, name: str = "caption") -> dict[str, Any]:
    return {"value": {"text": [words]}, "id": identity, "from_name": name, "to_name": "image", "type": "textarea"}


# BOX in percent of 120 x 60
RECTANGLE = {"x": 62.5, "y": 25.0, "width": 12.5, "height": 25.0, "rotation": 0}
REGION = result("rectanglelabels", "r1", **RECTANGLE, rectanglelabels=["Dog"])


def task(number: int, results: list[Any], **data: Any) -> dict[str, Any]:
    """A task of Label Studio's JSON export."""
    annotations = [
        {"id": 1, "was_cancelled": True, "result": [text("skipped", "x")]},
        {"id": 2, "was_cancelled": False, "ground_truth": False, "result": results},
    ]
    return {
        "id": number,
        "annotations": annotations,
        "data": {"image": "/data/upload/7/a.jpg"} | data,
        "predictions": [],
    }


def open_label_studio(folder: Path, tasks: Any) -> Any:
    path = write_json(folder / "project-1.json", tasks)
    return open_pairs("data.name=label-studio", f"data.path={path}", f"data.image_root={folder / 'pictures'}")


def test_captions_of_pictures_and_of_regions(folder: Path) -> None:
    polygon = result("polygonlabels", "r2", points=[[0, 0], [5, 0], [5, 10], [0, 10]], polygonlabels=["Cat"])
    tasks = [
        task(11, [REGION, polygon, text("a dog", "t1")]),
        task(12, [REGION, polygon], caption="the cat", image="/data/local-files/?d=a.jpg"),
        task(13, [REGION, polygon, text("a brown animal", "r1", "region")]),
    ]
    dog, cat, region = pairs_of(open_label_studio(folder, tasks))
    assert [(pair.key, pair.caption, pair.image) for pair in (dog, cat, region)] == [
        ("project-1.json:11", "a dog", "a.jpg"),
        ("project-1.json:12", "the cat", "a.jpg"),
        ("project-1.json:13.0", "a brown animal", "a.jpg"),
    ]
    assert box_of(dog) == box_of(region) == BOX
    assert_lies_in_cell(dog)
    assert box_of(cat) == [0, 0, 6, 6]


def test_a_turned_rectangle_and_an_ellipse(folder: Path) -> None:
    # a quarter turn around the upper left corner, which is then the upper right one
    turned = result("rectanglelabels", "r1", x=75, y=25, width=12.5, height=25, rotation=90, rectanglelabels=["Dog"])
    disc = result("ellipselabels", "r1", x=50, y=50, radiusX=10, radiusY=20, ellipselabels=["Dog"])
    box, circle = pairs_of(open_label_studio(folder, [task(1, [turned], caption="a"), task(2, [disc], caption="b")]))
    assert box_of(box) == BOX
    assert mask_of(circle).sum() == pytest.approx(3.14159 * 144, rel=0.02)
    assert mask_of(circle)[18:42, 48:72].sum() == mask_of(circle).sum()


def test_json_min(folder: Path) -> None:
    labels = [RECTANGLE | {"rectanglelabels": ["Dog"], "original_width": WIDTH, "original_height": HEIGHT}]
    entry = {"image": "/data/upload/a.jpg", "id": 5, "label": labels, "caption": "dog", "annotator": 1}
    (pair,) = pairs_of(open_label_studio(folder, [entry | {"annotation_id": 2, "created_at": "", "lead_time": 3.1}]))
    assert pair.key == "project-1.json:5"
    assert box_of(pair) == BOX


@pytest.mark.parametrize(
    ("results", "data", "message"),
    [
        ([result("brushlabels", "r", rle=[1], brushlabels=["Dog"])], {}, "region 'r': a brush is not read: export it"),
        ([REGION | {"image_rotation": 90}], {}, "the picture was turned by 90 degrees in Label Studio"),
        ([REGION | {"value": {"x": 1}}], {}, "a rectangle must have numbers in percent of the picture"),
        ([result("rectanglelabels", "r", x=101, y=1, width=5, height=5, rectanglelabels=["Dog"])], {}, "lies outside"),
        ([REGION | {"original_width": 0}], {}, "the size of the picture must be whole numbers above 0"),
        ([REGION], {"image": None}, r"the field 'image' \(data.image_column\) must be text, got None"),
        ([REGION], {"image": "b.jpg"}, "does not exist"),
    ],
)
def test_a_broken_task_is_a_failed_row(results: list[Any], data: dict[str, Any], message: str, folder: Path) -> None:
    tasks = [task(1, [REGION], caption="dog"), task(2, results, **{"caption": "dog"} | data)]
    ((key, error),) = errors_of(open_label_studio(folder, tasks)).items()
    assert key == "project-1.json:2"
    assert re.search(message, error)


@pytest.mark.parametrize(
    ("content", "message"), [({"a": 1}, "it must be a list of tasks"), ([task(1, [])], "has no captions: no task has")]
)
def test_another_layout_is_refused(content: Any, message: str, folder: Path) -> None:
    path = write_json(folder / "project.json", content)
    assert message in opening_error("data.name=label-studio", f"data.path={path}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["labelme", "label-studio"])
def test_the_evaluation_says_for_how_many_pairs(name: str, folder: Path) -> None:
    open_labelme(folder, labelme([DOG], caption="a dog"), labelme([DOG, CAT], caption="animals"))
    open_label_studio(folder, [task(1, [REGION], caption="a dog"), task(2, [], caption="animals")])
    path = {"labelme": folder / "labels", "label-studio": folder / "project-1.json"}[name]
    words = [f"data.image_root={folder / 'pictures'}"] if name == "label-studio" else []
    table = evaluate(folder / "run", f"data.name={name}", f"data.path={path}", *words)
    assert "(1 pairs)" in next(line for line in table.splitlines() if line.startswith("- image pointing:"))
