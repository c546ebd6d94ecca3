"""The objects of a COCO instances file, and their masks.

Legend: H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.coordinates import (
    Size,
    checked_box,
    checked_points,
    checked_size,
    mask_of_box,
    mask_of_polygon,
)
from m2ib_lightning.pairs.annotations.json_files import Id, by_id, id_of, read_json, records
from m2ib_lightning.pairs.truth import Mask, RawTruth
from m2ib_lightning.results.run_lengths import from_rle

Instance = dict[str, Any]
"""An annotation of an instances file."""


class Instances:
    """The objects of a COCO instances file.

    Args:
        file: path of the file.
        key: the key of the configuration that names it, for error messages.

    Attributes:
        images: entry of each image, by its id.
        categories: name of each category, by its id.
        by_id: each annotation, by its id.
        crowds: number of crowd annotations (``iscrowd``).

    Raises:
        M2IBError: if the file can't be read, or has another layout.
    """

    def __init__(self, file: Path, key: str = "data.instances") -> None:
        content = read_json(file, key)
        layout = "a COCO instances file"
        self.name = file.name
        self.images = by_id(records(content, "images", file, layout))
        categories = by_id(records(content, "categories", file, layout))
        self.categories = {identity: str(category.get("name")) for identity, category in categories.items()}
        self.crowds = 0
        self._by_image: dict[Id, list[Instance]] = {}
        annotations = records(content, "annotations", file, layout)
        if annotations and not any("bbox" in found or "segmentation" in found for found in annotations[:100]):
            raise M2IBError(
                f"{key}={str(file)!r} is not {layout}: its annotations have no 'bbox' and no 'segmentation'"
            )
        self.by_id: dict[Id, Instance] = by_id(annotations)
        for annotation in annotations:
            self._by_image.setdefault(id_of(annotation, "image_id"), []).append(annotation)
            self.crowds += bool(annotation.get("iscrowd"))

    def of_image(self, image_id: Id) -> list[Instance]:
        """Return the annotations of an image."""
        return self._by_image.get(image_id, [])

    def category(self, annotation: Instance) -> str:
        """Return the name of an annotation's category.

        Raises:
            PairError: if the category is not in the file.
        """
        name = self.categories.get(id_of(annotation, "category_id"))
        if name is None:
            raise PairError(
                f"{self._place(annotation)} has the unknown category {quoted(annotation.get('category_id'))}"
            )
        return name

    def truth(self, annotations: Sequence[Instance], **fields: Any) -> RawTruth:
        """Return the ground truth of a pair whose mask is the union of some annotations of one image.

        Args:
            annotations: the annotations, at least one.
            fields: further fields of the truth.

        Raises:
            PairError: if the image is not in the file, or has no size.
        """
        image = self.images.get(id_of(annotations[0], "image_id"))
        if image is None:
            raise PairError(f"{self._place(annotations[0])} has the unknown image {annotations[0].get('image_id')!r}")
        try:
            size = checked_size(image.get("width"), image.get("height"))
        except PairError as error:
            raise PairError(f"image {image.get('id')!r} of {self.name}: {error}") from None
        parts = [(self._place(annotation), annotation) for annotation in annotations]
        return RawTruth(mask=partial(draw_union, parts, size), size=size, **fields)

    def _place(self, annotation: Instance) -> str:
        return f"annotation {annotation.get('id')!r} of {self.name}"


def draw_union(parts: Sequence[tuple[str, Instance]], size: Size) -> Mask:
    """Return the mask (H, W) of all pixels that one of the annotations covers.

    Args:
        parts: the annotations, each with its place for error messages.
        size: (width, height) of the picture.

    Raises:
        PairError: if an annotation can't be drawn.
    """
    union = np.zeros(size[::-1], np.bool_)
    for place, annotation in parts:
        try:
            union |= draw_instance(annotation, size)
        except M2IBError as error:
            raise PairError(f"{place}: {error}") from None
    return union


def draw_instance(annotation: Instance, size: Size) -> Mask:
    """Return the mask (H, W) of one annotation: its polygons, its run lengths, or else its box.

    Raises:
        M2IBError: if the annotation can't be drawn.
    """
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return _of_run_lengths(segmentation, size)
    if not segmentation:  # none, or an empty list
        return mask_of_box(checked_box(annotation.get("bbox"), size), size)
    if not isinstance(segmentation, list):
        raise PairError(f"the segmentation must be polygons or run lengths, got {quoted(segmentation)}")
    union = np.zeros(size[::-1], np.bool_)
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2:
            raise PairError(f"a polygon must be a list [x1, y1, x2, y2, ...], got {quoted(polygon)}")
        pairs = list(zip(polygon[::2], polygon[1::2], strict=True))
        union |= mask_of_polygon(checked_points(pairs, size), size)
    return union


def _of_run_lengths(segmentation: dict[str, Any], size: Size) -> Mask:
    if segmentation.get("size") != [size[1], size[0]] or not isinstance(segmentation.get("counts"), str | list):
        raise PairError(
            f"run lengths must have counts and the size [{size[1]}, {size[0]}] (height, width) of the picture, got "
            f"{quoted(segmentation)}"
        )
    return from_rle(segmentation)
