"""Boxes and masks of pictures that are stored turned or mirrored, in every source of annotations.

The stored picture has 120 x 60 pixels. It is black, with ``STORED`` in white, and so shows where the truth must lie.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import read_image
from tests.datamodules.annotated import BOX, box_of, errors_of, open_pairs, pairs_of, write_json

STORED = [70, 10, 20, 5]
"""[left, top, width, height] of the object in the stored picture: columns 70 to 90, rows 10 to 15."""

SHOWN = {
    6: [45, 70, 5, 20],  # a quarter turn clockwise: (x, y) comes to (60 - y, x)
    8: [10, 30, 5, 20],  # counterclockwise: (y, 120 - x)
    5: [10, 70, 5, 20],  # mirrored at the diagonal: (y, x)
    7: [45, 30, 5, 20],  # at the other one: (60 - y, 120 - x)
    3: [30, 45, 20, 5],  # upside down: (120 - x, 60 - y)
    2: [30, 10, 20, 5],  # mirrored from left to right: (120 - x, y)
    4: [70, 45, 20, 5],  # from top to bottom: (x, 60 - y)
}
"""The same object in the shown picture, by EXIF orientation, computed by hand."""

QUARTERS = (6, 8, 5, 7)
"""Orientations that swap width and height."""

Size = tuple[int, int]


def save_picture(path: Path, orientation: int, scale: int = 1) -> None:
    """Save the picture, or a larger copy, as a PNG file of any name."""
    pixels = np.zeros((60 * scale, 120 * scale), np.uint8)
    left, top, width, height = (scale * value for value in STORED)
    pixels[top : top + height, left : left + width] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, "PNG", exif=exif)


def objects(size: Size, box: list[int], **annotation: Any) -> dict[str, Any]:
    """An instances file of COCO with one dog."""
    images = [{"id": 1, "file_name": "a.jpg", "width": size[0], "height": size[1]}]
    instance = {"id": 5, "image_id": 1, "category_id": 1, "bbox": box, "segmentation": [], "iscrowd": 0} | annotation
    return {"images": images, "annotations": [instance], "categories": [{"id": 1, "name": "dog"}]}


def coco(folder: Path, size: Size, box: list[int]) -> list[str]:
    write_json(folder / "instances_x.json", objects(size, box))
    captions = {"images": objects(size, box)["images"], "annotations": [{"id": 3, "image_id": 1, "caption": "dog"}]}
    return ["data.name=coco", f"data.path={write_json(folder / 'captions_x.json', captions)}"]


def refcoco(folder: Path, size: Size, box: list[int]) -> list[str]:
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    polygon = [[left, top, right, top, right, bottom, left, bottom]]
    write_json(folder / "instances.json", objects(size, box, segmentation=polygon))
    sentences = [{"sent_id": 1, "sent": "the dog"}]
    references = [{"ann_id": 5, "ref_id": 1, "image_id": 1, "category_id": 1, "sentences": sentences}]
    return ["data.name=refcoco", f"data.path={write_json(folder / 'refs.json', references)}"]


def flickr(folder: Path, size: Size, box: list[int]) -> list[str]:
    for name in ("Sentences", "Annotations"):
        (folder / "entities" / name).mkdir(parents=True)
    (folder / "entities" / "Sentences" / "a.txt").write_text("[/EN#7/animals A dog] runs .\n")
    corners = {"xmin": box[0] + 1, "ymin": box[1] + 1, "xmax": box[0] + box[2], "ymax": box[1] + box[3]}
    bounds = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
    content = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    content += f"<object><name>7</name><bndbox>{bounds}</bndbox></object>"
    (folder / "entities" / "Annotations" / "a.xml").write_text(f"<annotation>{content}</annotation>")
    return ["data.name=flickr30k-entities", f"data.path={folder / 'entities'}", f"data.image_root={folder}"]


def visual_genome(folder: Path, size: Size, box: list[int]) -> list[str]:
    (folder / "a.jpg").rename(folder / "1.jpg")
    write_json(folder / "image_data.json", [{"image_id": 1, "width": size[0], "height": size[1]}])
    region = dict(zip(("x", "y", "width", "height"), box, strict=True)) | {"region_id": 1, "phrase": "a dog"}
    path = write_json(folder / "region_descriptions.json", [{"id": 1, "regions": [region]}])
    return ["data.name=visual-genome", f"data.path={path}"]


def ms_cxr(folder: Path, size: Size, box: list[int]) -> list[str]:
    path = folder / "cxr.csv"
    header = "dicom_id,category_name,label_text,path,x,y,w,h,image_width,image_height"
    path.write_text(f"{header}\na,Edema,edema,a.jpg,{','.join(map(str, [*box, *size]))}\n")
    return ["data.name=ms-cxr", f"data.path={path}"]


def labelme(folder: Path, size: Size, box: list[int]) -> list[str]:
    points = [box[:2], [box[0] + box[2], box[1] + box[3]]]
    shape = {"label": "dog", "points": points, "shape_type": "rectangle"}
    content = {"caption": "a dog", "imagePath": "a.jpg", "imageWidth": size[0], "imageHeight": size[1]}
    path = write_json(folder / "a.json", content | {"shapes": [shape]})
    return ["data.name=labelme", f"data.path={path}"]


def label_studio(folder: Path, size: Size, box: list[int]) -> list[str]:
    percent = [100 * value / side for value, side in zip(box, (*size, *size), strict=True)]
    value = dict(zip(("x", "y", "width", "height"), percent, strict=True)) | {"rectanglelabels": ["dog"]}
    sides: dict[str, Any] = {"original_width": size[0], "original_height": size[1]}
    region = sides | {"type": "rectanglelabels", "id": "r", "value": value}
    task = {"id": 1, "data": {"image": "a.jpg", "caption": "a dog"}, "annotations": [{"result": [region]}]}
    return ["data.name=label-studio", f"data.path={write_json(folder / 'project.json', [task])}"]


WRITERS: dict[str, Callable[[Path, Size, list[int]], list[str]]] = {
    "coco": coco,
    "refcoco": refcoco,
    "flickr30k-entities": flickr,
    "visual-genome": visual_genome,
    "ms-cxr": ms_cxr,
    "labelme": labelme,
    "label-studio": label_studio,
}


def white_box(path: Path) -> list[int]:
    """The white part of a picture as it is shown."""
    columns, rows = (np.flatnonzero((np.asarray(read_image(path).picture)[..., 0] > 127).any(axis)) for axis in (0, 1))
    return [int(columns[0]), int(rows[0]), len(columns), len(rows)]


@pytest.mark.parametrize("orientation", SHOWN)
def test_the_boxes_by_hand_are_those_of_the_shown_picture(orientation: int, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", orientation)
    assert white_box(tmp_path / "a.png") == SHOWN[orientation]


@pytest.mark.parametrize("source", WRITERS)
def test_the_size_of_the_annotation_tells_stored_from_shown(source: str, tmp_path: Path) -> None:
    for orientation in QUARTERS:
        for kind, size, box in (("stored", (120, 60), STORED), ("shown", (60, 120), SHOWN[orientation])):
            folder = tmp_path / f"{orientation}-{kind}"
            save_picture(folder / "a.jpg", orientation)
            (pair,) = pairs_of(open_pairs(*WRITERS[source](folder, size, box)))
            assert pair.image_size == (60, 120)
            assert box_of(pair) == SHOWN[orientation], (orientation, kind)


@pytest.mark.parametrize("orientation", [3, 2, 4])
def test_the_key_tells_where_the_size_can_not(orientation: int, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg", orientation)
    for source in ("coco", "ms-cxr"):
        words = WRITERS[source](tmp_path, (120, 60), STORED)
        (shown,) = pairs_of(open_pairs(*words))
        assert box_of(shown) == STORED  # as it is
        (stored,) = pairs_of(open_pairs(*words), "stored")
        assert box_of(stored) == SHOWN[orientation]


def test_another_word_is_refused() -> None:
    with pytest.raises(M2IBError, match=r"data\.annotated_as must be shown, stored, or null, got 'raw'"):
        ImageRules(annotated_as="raw")


def test_a_larger_picture_and_the_word_of_the_user(tmp_path: Path) -> None:
    save_picture(tmp_path / "a.jpg", 6, scale=2)
    words = ms_cxr(tmp_path, (120, 60), STORED)
    (pair,) = pairs_of(open_pairs(*words))
    assert box_of(pair) == [2 * value for value in SHOWN[6]]
    (error,) = errors_of(open_pairs(*words), "shown").values()
    assert "the annotation is of a picture of 120 x 60 pixels, and the picture has 120 x 240" in error


@pytest.mark.parametrize("orientation", [6, 3])
def test_boxes_and_masks_of_a_table(orientation: int, tmp_path: Path) -> None:
    save_picture(tmp_path / "a.png", orientation)
    save_picture(tmp_path / "mask.png", 1)  # drawn on the stored picture
    path = tmp_path / "pairs.csv"
    path.write_text(f'image,caption,mask,box\na.png,a dog,mask.png,"{STORED}"\na.png,a dog,,"{STORED}"\n')
    for column in ("mask", "box"):
        words = [f"data.path={path}", f"data.{column}_column={column}"]
        pair = pairs_of(open_pairs(*words), "stored")[0]
        assert box_of(pair) == SHOWN[orientation]
        # a mask has a size, which tells of a quarter turn; the boxes of a table are those of the shown picture
        plain = pairs_of(open_pairs(*words))[0]
        if (orientation, column) == (6, "box"):
            assert "lies outside the picture of 60 x 120 pixels" in str(plain.error)
        else:
            assert box_of(plain) == (STORED if orientation == 3 else SHOWN[6])


def test_a_square_picture_is_annotated_as_shown(tmp_path: Path) -> None:
    square = Image.new("L", (60, 60))
    exif = Image.Exif()
    exif[0x0112] = 8
    square.save(tmp_path / "a.jpg", "PNG", exif=exif)
    words = ms_cxr(tmp_path, (60, 60), [10, 20, 5, 8])
    (pair,) = pairs_of(open_pairs(*words))
    assert box_of(pair) == [10, 20, 5, 8]
    (pair,) = pairs_of(open_pairs(*words), "stored")
    assert box_of(pair) == [20, 60 - 15, 8, 5]  # counterclockwise: (y, 60 - x)


@pytest.mark.parametrize("format_", ["TIFF", "JPEG", "WEBP"])
def test_every_format_tells_its_rotation(format_: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (120, 60))
    picture.save(tmp_path / "a.jpg", format_, exif=exif)
    (pair,) = pairs_of(open_pairs(*ms_cxr(tmp_path, (120, 60), BOX)))
    assert (pair.image_size, box_of(pair)) == ((60, 120), [30, 75, 15, 15])
