"""COCO captions with the masks of the instances file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_masks

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.pairs.annotations.annotated import AnnotatedSource
from m2ib_lightning.results.run_lengths import from_rle, to_rle
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
    model_folder,
    open_pairs,
    opening_error,
    pairs_of,
    save_pictures,
    write_json,
)

POLYGON = [[value for corner in CORNERS for value in corner]]
CELL = np.zeros((HEIGHT, WIDTH), bool)
CELL[15:30, 75:90] = True
CATEGORIES = [
    {"supercategory": "animal", "id": 18, "name": "dog"},
    {"supercategory": "food", "id": 58, "name": "hot dog"},
    {"supercategory": "person", "id": 1, "name": "person"},
]


def image(number: int, **changes: Any) -> dict[str, Any]:
    """An entry of ``images``, in COCO's layout."""
    name = f"{number:012}.jpg"
    entry = {"license": 4, "file_name": name, "coco_url": f"http://images.cocodataset.org/val2017/{name}"}
    entry |= {"height": HEIGHT, "width": WIDTH, "date_captured": "2013-11-14 17:02:52", "flickr_url": "", "id": number}
    return entry | changes


def instance(identity: int, category: int, segmentation: Any, **changes: Any) -> dict[str, Any]:
    """An annotation of an instances file."""
    entry = {"segmentation": segmentation, "area": 225.0, "iscrowd": 0, "image_id": 9, "bbox": BOX}
    return entry | {"category_id": category, "id": identity} | changes


def caption(identity: int, text: str, image_id: int = 9) -> dict[str, Any]:
    """An annotation of a captions file."""
    return {"image_id": image_id, "id": identity, "caption": text}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """A function that writes COCO's folders and returns the path of the captions file."""

    def write(captions: list[Any], instances: list[Any] | None, images: list[Any] | None = None) -> Path:
        images = [image(9), image(25)] if images is None else images
        save_pictures(tmp_path / "val2017", "000000000009.jpg", "000000000025.jpg")
        head = {"info": {"description": "COCO 2017 Dataset", "year": 2017}, "licenses": [], "images": images}
        folder = tmp_path / "annotations"
        if instances is not None:
            content = head | {"annotations": instances, "categories": CATEGORIES}
            write_json(folder / "instances_val2017.json", content)
        return write_json(folder / "captions_val2017.json", head | {"annotations": captions})

    return write


@pytest.mark.parametrize(
    "segmentation",
    [POLYGON, to_rle(CELL), "compressed", []],
    ids=["polygons", "run lengths", "compressed run lengths", "box"],
)
def test_every_segmentation_has_the_mask_of_the_box(segmentation: Any, write: Any) -> None:
    if segmentation == "compressed":
        rle = coco_masks.encode(np.asfortranarray(CELL.astype(np.uint8)))
        segmentation = {"size": rle["size"], "counts": rle["counts"].decode()}
    source = open_pairs(
        "data.name=coco", f"data.path={write([caption(4, 'a dog .')], [instance(1, 18, segmentation)])}"
    )
    (pair,) = pairs_of(source)
    assert (pair.key, pair.id, pair.image) == ("captions_val2017.json:4", "4", "000000000009.jpg")
    assert box_of(pair) == BOX
    assert_lies_in_cell(pair)
    assert pair.truth is not None
    assert (pair.truth.label, pair.truth.content, pair.truth.resized) == ("dog", [(2, 5)], False)


def test_the_mask_is_that_of_the_named_categories(write: Any) -> None:
    instances = [
        instance(1, 18, [], bbox=[0, 0, 10, 10]),
        instance(2, 18, [], bbox=[10, 0, 10, 10]),
        instance(3, 58, [], bbox=[0, 20, 5, 5]),
        instance(4, 1, to_rle(CELL), iscrowd=1),
        instance(5, 18, [], image_id=25),
    ]
    texts = ["Dogs run.\n", "A hot dog", "two people and a dog", "a boring picture", "hotdogs personal"]
    source = open_pairs("data.name=coco", f"data.path={write([caption(k, t) for k, t in enumerate(texts)], instances)}")
    dogs, hot_dog, both, *nothing = pairs_of(source)
    assert dogs.caption == "Dogs run."
    assert box_of(dogs) == [0, 0, 20, 10]
    assert box_of(hot_dog) == [0, 20, 5, 5]
    assert mask_of(both).sum() == 200 + 225  # the crowd of people counts
    assert both.truth is not None
    assert (both.truth.label, both.truth.content) == (None, [(4, 10), (17, 20)])
    assert [pair.truth for pair in nothing] == [None, None]
    assert isinstance(source, AnnotatedSource)
    assert source.note == "masks from instances_val2017.json, with 1 crowd annotation"


def test_one_caption_or_all(write: Any) -> None:
    path = write([caption(1, "a"), caption(2, "b", 25), caption(3, "c")], None)
    every = open_pairs("data.name=coco", f"data.path={path}")
    assert [pair.caption for pair in pairs_of(every)] == ["a", "b", "c"]
    first = open_pairs("data.name=coco", f"data.path={path}", "data.one_caption=true")
    assert [pair.caption for pair in pairs_of(first)] == ["a", "b"]


def test_keys_stay_when_captions_are_added(write: Any) -> None:
    before = open_pairs("data.name=coco", f"data.path={write([caption(7, 'a'), caption(3, 'b')], None)}")
    after = open_pairs(
        "data.name=coco", f"data.path={write([caption(1, 'c'), caption(7, 'a'), caption(3, 'b')], None)}"
    )
    assert [before.key(k) for k in range(2)] == [after.key(k) for k in (1, 2)]


def test_a_smaller_copy_of_a_picture_has_the_mask_in_its_place(write: Any, tmp_path: Path) -> None:
    large = [image(9, width=2 * WIDTH, height=2 * HEIGHT)]
    words = [instance(1, 18, [[2 * value for value in POLYGON[0]]])]
    path = write([caption(1, "dog")], words, large)
    (pair,) = pairs_of(open_pairs("data.name=coco", f"data.path={path}"))
    assert box_of(pair) == BOX
    assert pair.truth is not None
    assert pair.truth.resized


BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"segmentation": [[1, 2, 3]]}, r"a polygon must be a list \[x1, y1, x2, y2, ...\], got \[1, 2, 3\]"),
    ({"segmentation": [[1, 2, 3, 4]]}, "a polygon must have at least three points"),
    ({"segmentation": [[200, 0, 210, 0, 210, 9]]}, "lies outside the picture of 120 x 60 pixels"),
    ({"segmentation": [], "bbox": [0, 70, 5, 5]}, r"the box \[0, 70, 5, 5\] lies outside the picture of 120 x 60"),
    ({"segmentation": [], "bbox": [0, 0, 0, 5]}, r"the box \[0, 0, 0, 5\] is empty"),
    ({"segmentation": [], "bbox": [0, "a", 0]}, "a box must be"),
    ({"segmentation": {"size": [60, 120], "counts": [5]}}, "run lengths must be whole numbers that add up to 60 x 120"),
    ({"segmentation": {"size": [120, 60], "counts": [7200]}}, r"the size \[60, 120\] \(height, width\) of the picture"),
    ({"segmentation": {"size": [60, 120], "counts": "\x00"}}, "are no compressed run lengths of COCO"),
    ({"category_id": 99}, "has the unknown category 99"),
]


@pytest.mark.parametrize(("change", "message"), BROKEN)
def test_a_broken_annotation_costs_its_pairs(change: dict[str, Any], message: str, write: Any) -> None:
    path = write(
        [caption(1, "a dog"), caption(2, "a hot dog", 25)],
        [instance(1, 18, POLYGON) | change, instance(2, 58, POLYGON, image_id=25)],
    )
    ((key, error),) = errors_of(open_pairs("data.name=coco", f"data.path={path}")).items()
    assert key == "captions_val2017.json:1"
    assert re.search("annotation 1 of instances_val2017.json.*" + message, error)


def test_an_object_of_an_unknown_picture_costs_the_captions_of_that_picture(write: Any, tmp_path: Path) -> None:
    path = write(
        [caption(1, "a dog"), caption(2, "a dog", 25)], [instance(1, 18, []), instance(2, 18, [], image_id=25)]
    )
    file = path.parent / "instances_val2017.json"
    write_json(file, json.loads(file.read_text()) | {"images": [image(25), {"id": 9, "width": "x", "height": 60}]})
    ((key, error),) = errors_of(open_pairs("data.name=coco", f"data.path={path}")).items()
    assert key == "captions_val2017.json:1"
    assert "image 9 of instances_val2017.json: the size of the picture must be whole numbers" in error
    write_json(file, json.loads(file.read_text()) | {"images": [image(25)]})
    ((key, error),) = errors_of(open_pairs("data.name=coco", f"data.path={path}")).items()
    assert error.endswith("annotation 1 of instances_val2017.json has the unknown image 9")


def test_broken_captions_are_failed_rows(write: Any) -> None:
    captions = [caption(1, "a dog"), caption(2, "a dog", 8), {"image_id": 9, "id": 3}, caption(1, "again")]
    captions += [{"image_id": 9, "caption": "no id"}, caption(6, "no file", 25), caption(7, "a dog", [9])]  # type: ignore[arg-type]
    path = write(captions, None)
    (path.parents[1] / "val2017" / "000000000025.jpg").unlink()
    errors = errors_of(open_pairs("data.name=coco", f"data.path={path}"))
    name = "captions_val2017.json"
    where = f"annotation 2 of {name}: the image_id 8 is not among the images of {name}"
    assert errors.pop(f"{name}:2") == where
    assert errors.pop(f"{name}:3") == f"annotation 3 of {name}: the caption must be text, got None"
    assert "an earlier annotation has the same id" in errors.pop(f"{name}:1.1")
    assert "the id must be a number or text, got None" in errors.pop(f"{name}:no-id-4")
    assert "000000000025.jpg' (" in errors.pop(f"{name}:6")
    assert "the image_id [9] is not among" in errors.pop(f"{name}:7")
    assert not errors


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"captions_val2017.json' is not JSON: .* \(line 1, column 2\)"),
        ("[1]", "is not a COCO captions file: it needs a list 'images', and has a list"),
        ('{"images": [3], "annotations": []}', r"images\[0\] must be an object, got 3"),
        ('{"images": [], "annotations": [{"bbox": [1]}]}', "its annotations have no 'caption' but 'bbox'"),
        ('{"images": [], "annotations": []}', "has no captions that data.name=coco reads"),
    ],
)
def test_a_file_of_another_layout_is_refused(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "captions_val2017.json"
    path.write_text(content)
    assert re.search(message, opening_error("data.name=coco", f"data.path={path}"))


def test_options_are_checked(write: Any, tmp_path: Path) -> None:
    path = f"data.path={write([caption(1, 'a')], None)}"
    assert "data.name=coco needs data.path: a captions_*.json file of COCO" in opening_error("data.name=coco")
    assert "does not exist: data.name=coco needs" in opening_error("data.name=coco", "data.path=captions.json")
    assert "does not use data.split=val: leave it out" in opening_error("data.name=coco", path, "data.split=val")
    missing = opening_error("data.name=coco", path, f"data.instances={tmp_path / 'none.json'}")
    assert missing.startswith("data.instances=")
    assert missing.endswith("none.json' does not exist")
    assert "data.image_root='none' is not a folder" in opening_error("data.name=coco", path, "data.image_root=none")


def test_polygons_are_drawn_like_those_of_pycocotools() -> None:
    from m2ib_lightning.datamodules.instance_masks import draw_instance

    rng = np.random.default_rng(0)
    for _ in range(20):
        angles, radii = np.sort(rng.uniform(0, 2 * np.pi, 9)), rng.uniform(8, 28, 9)
        corners = np.stack([60 + radii * np.cos(angles), 30 + radii * np.sin(angles)], 1)
        mask = draw_instance({"segmentation": [corners.ravel().tolist()]}, (WIDTH, HEIGHT))
        expected = coco_masks.decode(coco_masks.frPyObjects([corners.ravel().tolist()], HEIGHT, WIDTH))[..., 0] > 0
        edge = expected ^ mask
        assert edge.sum() <= 0.15 * expected.sum()  # pixels on the edge: pycocotools rounds it to fifths of a pixel
        inner = (
            expected[1:-1, 1:-1] & expected[:-2, 1:-1] & expected[2:, 1:-1] & expected[1:-1, :-2] & expected[1:-1, 2:]
        )
        assert not (inner & ~mask[1:-1, 1:-1]).any()


def test_compressed_run_lengths_are_those_of_pycocotools() -> None:
    rng = np.random.default_rng(1)
    for share in (0.0, 0.02, 0.5, 1.0):
        mask = rng.random((40, 70)) < share
        rle = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))
        np.testing.assert_array_equal(from_rle(rle), mask)


@pytest.mark.slow
def test_the_evaluation_says_for_how_many_pairs(write: Any, tmp_path: Path) -> None:
    path = write([caption(1, "a dog"), caption(2, "nothing named"), caption(3, "dogs", 8)], [instance(1, 18, POLYGON)])
    table = evaluate(tmp_path / "run", "data.name=coco", f"data.path={path}")
    assert "(1 pairs)" in next(line for line in table.splitlines() if line.startswith("- image pointing:"))


@pytest.mark.slow
def test_an_evaluation_does_the_captions_of_a_moved_object_again(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = [caption(1, "a dog"), caption(2, "a hot dog", 25), caption(3, "nothing named")]
    objects = [instance(1, 18, POLYGON), instance(2, 58, to_rle(CELL), image_id=25)]
    words = ["data.name=coco", f"data.path={write(captions, objects)}"]
    evaluate(tmp_path / "run", *words)
    evaluate(tmp_path / "run", *words, "resume=true")
    assert "in the source" not in capsys.readouterr().out
    write(captions, [objects[0], instance(2, 58, [], image_id=25, bbox=[40, 0, 9, 9])])
    evaluate(tmp_path / "run", *words, "resume=true")
    again = "pairs: 1 changed in the source since their rows were written, and are done again (captions_val2017.json:2)"
    assert again in capsys.readouterr().out


@pytest.mark.slow
def test_a_resumed_run_does_new_and_changed_captions(
    write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data.name=coco", f"data.path={write([caption(7, 'a dog'), caption(3, 'a cat')], None)}"]
    words += [f"model.name={model_folder()}", "method.name=saliency", f"output_dir={tmp_path / 'run'}"]
    words += ["output.heatmaps=0", "trainer.enable_progress_bar=false", "data.num_workers=1"]
    assert main(words) == 0
    write([caption(9, "new"), caption(7, "a dog"), caption(3, "two cats")], None)
    capsys.readouterr()
    assert main([*words, "resume=true"]) == 0
    output = capsys.readouterr().out
    assert "pairs: 1 changed in the source since their rows were written" in output
    assert "3 pairs (no instances file, so no masks), 1 of them done before" in output
    rows = {row["key"]: row["caption"] for row in load_attributions(tmp_path / "run").to_list()}
    name = "captions_val2017.json"
    assert rows == {f"{name}:9": "new", f"{name}:7": "a dog", f"{name}:3": "two cats"}
