"""Load pictures annotated with LabelMe: a JSON file for each, with a caption in it or a description of its shapes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import AnnotatedDataModule, AnnotationOptions
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.coordinates import checked_size
from m2ib_lightning.pairs.annotations.json_files import read_json, records
from m2ib_lightning.pairs.annotations.shapes import Points, Shape, ellipse, rectangle, truth_of, truth_of_caption

_OF_ITS_OWN = re.compile(r"~|\w+://|file:|data:|[A-Za-z]:[\\/]", re.IGNORECASE)
"""The beginning of a path that does not start at a folder: a home, a URL, or a drive of Windows."""


class _Place(NamedTuple):
    """Where a pair comes from: a file, or the first of its shapes with a description."""

    file: Path
    shape: int | None = None
    error: str | None = None


class LabelMeSource(AnnotatedSource):
    """The captions of LabelMe files. The key is ``<folder>:<file>``, or ``<folder>:<file>.<shape>``.

    A file with a caption is one pair (``truth_of_caption`` says which shapes count). A file without one has a pair for
    each text in the ``description`` of its shapes: the shapes with that text.

    Args:
        folder: folder of the files.
        files: the files.
        image_root: folder of the pictures; None for the folder of each file, as LabelMe writes paths.
        text_field: name of the field with the caption.
    """

    def __init__(self, folder: Path, files: list[Path], image_root: Path | None, text_field: str) -> None:
        self.folder = folder
        self.text_field = text_field
        self.beside = image_root is None
        self.places = [place for file in files for place in _places(file, text_field)]
        identities = (self._name(file) + ("" if shape is None else f".{shape}") for file, shape, _ in self.places)
        super().__init__(folder.name, image_root or folder, identities, {})

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).with_suffix("").as_posix()

    @override
    def place(self, index: int) -> str:
        file, shape, _ = self.places[index]
        return file.name if shape is None else f"shapes[{shape}] of {file.name}"

    @override
    def annotated(self, index: int) -> Annotated:
        file, first, error = self.places[index]
        if error is not None:
            raise PairError(error)
        content = read_json(file)
        entries = records(content, "shapes", file, "a LabelMe file")
        shapes = [_shape(entry, f"shapes[{number}] of {file.name}") for number, entry in enumerate(entries)]
        size = checked_size(content.get("imageWidth"), content.get("imageHeight"))
        path = content.get("imagePath")
        if not isinstance(path, str) or not path:
            raise PairError(f"imagePath must be text, got {quoted(path)}")
        image = path if _OF_ITS_OWN.match(path) else PureWindowsPath(path).as_posix()  # Windows writes backslashes
        if self.beside and not _OF_ITS_OWN.match(path):
            image = (file.parent.relative_to(self.folder) / image).as_posix()
        if first is None:
            caption = content.get(self.text_field)
            return Annotated(image, caption, truth_of_caption(caption, shapes, size))
        caption = entries[first].get("description")
        same = [shape for shape, entry in zip(shapes, entries, strict=True) if entry.get("description") == caption]
        return Annotated(image, caption, truth_of(same, size))


def _places(file: Path, text_field: str) -> Iterator[_Place]:
    try:
        content = read_json(file)
        entries = records(content, "shapes", file, "a LabelMe file")
    except M2IBError as error:
        yield _Place(file, error=str(error))
        return
    if content.get(text_field) is not None:
        yield _Place(file)
        return
    seen = set()
    for number, entry in enumerate(entries):
        text = entry.get("description")
        if isinstance(text, str) and text.strip() and text not in seen:
            seen.add(text)
            yield _Place(file, number)
    if not seen:
        yield _Place(file, error=f"it has no field {text_field!r} (data.text_column), and no shape has a description")


def _shape(entry: dict[str, Any], place: str) -> Shape:
    return Shape(str(entry.get("label")), partial(_outline, entry), place)


def _outline(entry: dict[str, Any]) -> Points:
    kind, points = entry.get("shape_type") or "polygon", entry.get("points")
    try:
        corners = [(float(x), float(y)) for x, y in points or ()]
    except (TypeError, ValueError):
        raise PairError(f"points must be a list of [x, y], got {quoted(points)}") from None
    if kind == "polygon":
        return corners
    if kind in ("rectangle", "circle") and len(corners) == 2:
        (x0, y0), (x1, y1) = corners
        if kind == "rectangle":
            return rectangle(min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0))
        radius = math.hypot(x1 - x0, y1 - y0)  # from the middle to a point on the circle
        return ellipse(x0, y0, radius, radius)
    raise PairError(
        f"a shape of type {quoted(kind)} with {len(corners)} points has no area that is read: draw a polygon"
    )


class LabelMeDataModule(AnnotatedDataModule):
    """Loads the pairs of LabelMe files (``LabelMeSource``)."""

    source_name = "labelme"
    needs = "a JSON file of LabelMe, or a folder of them"

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> LabelMeSource:
        files = sorted(path.rglob("*.json")) if path.is_dir() else [path]
        folder = path if path.is_dir() else path.parent
        source = LabelMeSource(folder, files, options.image_root, options.text_field)
        if source.places and all(place.error is not None for place in source.places):
            raise M2IBError(f"data.path={str(path)!r} has no captions: {source.places[0].error}")
        return source


register_datamodule("labelme", LabelMeDataModule)
