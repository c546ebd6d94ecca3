"""Load an export of Label Studio (JSON or JSON-MIN): captions of pictures, or of regions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import AnnotatedDataModule, AnnotationOptions
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.coordinates import Size, checked_size
from m2ib_lightning.pairs.annotations.json_files import read_json
from m2ib_lightning.pairs.annotations.shapes import Points, Shape, ellipse, rectangle, truth_of, truth_of_caption
from m2ib_lightning.pairs.truth import RawTruth

_UPLOADS = re.compile(r"^/?data/upload/(?:\d+/)?")
_LOCAL_FILES = re.compile(r"^/?data/local-files/\?d=")

_KINDS = ("rectangle", "polygon", "ellipse", "brush", "keypoint")

Region = dict[str, Any]
"""A result of Label Studio that has a place in the picture."""


class _Place(NamedTuple):
    """Where a pair comes from: a task, or the region of it that a text describes."""

    task: int
    region: int | None = None


class LabelStudioSource(AnnotatedSource):
    """The captions of a Label Studio export. The key is ``<file>:<task>``, or ``<file>:<task>.<region>``.

    The caption of a task is its text area of that name, else the field of its data (``truth_of_caption`` says which
    regions count). Texts of single regions are pairs of their own. Of several annotations of a task the first that was
    not cancelled is read.

    Args:
        file: path of the export.
        image_root: folder of the pictures.
        text_field: name of the text area, or field, with the caption.
        image_field: name of the field with the picture.

    Raises:
        M2IBError: if the file can't be read, or has another layout.
    """

    def __init__(self, file: Path, image_root: Path, text_field: str, image_field: str) -> None:
        tasks = read_json(file)
        if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
            raise M2IBError(f"{str(file)!r} is not a JSON export of Label Studio: it must be a list of tasks")
        self.tasks: list[dict[str, Any]] = tasks
        self.text_field, self.image_field = text_field, image_field
        self.places = [place for number in range(len(tasks)) for place in self._places(number)]
        if not self.places:
            raise M2IBError(
                f"{str(file)!r} has no captions: no task has a text area or a field {text_field!r} (data.text_column)"
            )
        identities = (
            tasks[number].get("id") if region is None else f"{tasks[number].get('id')}.{region}"
            for number, region in self.places
        )
        super().__init__(file.name, image_root, identities, {file.name: str(file)})

    def _places(self, number: int) -> Iterator[_Place]:
        task = self.tasks[number]
        if self._caption(task) is not None:
            yield _Place(number)
        for index, region in enumerate(_regions(task)):
            if _text_of_region(task, region) is not None:
                yield _Place(number, index)

    @override
    def place(self, index: int) -> str:
        return f"task {self._identities[index]} of {self.name}"

    @override
    def annotated(self, index: int) -> Annotated:
        number, chosen = self.places[index]
        task = self.tasks[number]
        regions = _regions(task)
        image = _data(task).get(self.image_field)
        if not isinstance(image, str):
            raise PairError(f"the field {self.image_field!r} (data.image_column) must be text, got {quoted(image)}")
        image = _LOCAL_FILES.sub("", _UPLOADS.sub("", image)).lstrip("/")
        if chosen is None:
            caption = self._caption(task)
            return Annotated(image, caption, _truth(caption, regions))
        region = regions[chosen]
        return Annotated(image, _text_of_region(task, region), _truth(None, [region]))

    def _caption(self, task: dict[str, Any]) -> Any:
        for result in _results(task):
            if result.get("from_name") == self.text_field and not _is_region(result) and "width" not in _value(result):
                return _joined(_value(result).get("text"))
        return _data(task).get(self.text_field)


def _data(task: dict[str, Any]) -> dict[str, Any]:
    data = task.get("data")
    return data if isinstance(data, dict) else task  # JSON-MIN has the fields in the task


def _value(result: dict[str, Any]) -> dict[str, Any]:
    value = result.get("value")
    return value if isinstance(value, dict) else {}


def _results(task: dict[str, Any]) -> list[dict[str, Any]]:
    """The results of the first annotation that was not cancelled."""
    annotations = task.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else ():
        if isinstance(annotation, dict) and not annotation.get("was_cancelled"):
            results = annotation.get("result")
            return [result for result in results if isinstance(result, dict)] if isinstance(results, list) else []
    return []


def _regions(task: dict[str, Any]) -> list[Region]:
    """The results with a place in the picture; JSON-MIN has lists of them, without ``value``."""
    found = [result for result in _results(task) if _is_region(result)]
    lists = [] if "annotations" in task else [values for values in task.values() if isinstance(values, list)]
    for value in (value for values in lists for value in values if isinstance(value, dict)):
        kind = next((name for name in _KINDS if f"{name}labels" in value), None)
        if kind is not None:
            found.append({"type": f"{kind}labels", "value": value, **value})
    return found


def _is_region(result: dict[str, Any]) -> bool:
    return str(result.get("type")).removesuffix("labels") in _KINDS


def _text_of_region(task: dict[str, Any], region: Region) -> Any:
    """The text that was written for a region: a text area with the region's id."""
    for result in _results(task):
        if result.get("type") == "textarea" and result.get("id") == region.get("id") is not None:
            return _joined(_value(result).get("text"))
    return None


def _joined(text: Any) -> Any:
    return " ".join(map(str, text)) if isinstance(text, list) else text


def _truth(caption: Any, regions: list[Region]) -> RawTruth | None:
    """The truth of a caption of the picture, or, without one, of the regions."""
    if not regions:
        return None
    size = checked_size(regions[0].get("original_width"), regions[0].get("original_height"))
    shapes = [
        Shape(str(_label(region)), partial(_outline, region, size), f"region {region.get('id', number)!r}")
        for number, region in enumerate(regions)
    ]
    return truth_of(shapes, size) if caption is None else truth_of_caption(caption, shapes, size)


def _label(region: Region) -> str:
    labels = _value(region).get(str(region.get("type")))
    return str(labels[0]) if isinstance(labels, list) and labels else ""


def _outline(region: Region, size: Size) -> Points:
    """The corners of a region in pixels. Label Studio stores percent of the picture's width and height."""
    kind, value = str(region.get("type")).removesuffix("labels"), _value(region)
    if region.get("image_rotation"):
        raise PairError(f"the picture was turned by {region['image_rotation']} degrees in Label Studio: turn the file")
    x_scale, y_scale = size[0] / 100, size[1] / 100
    try:
        if kind == "polygon":
            return [[float(x) * x_scale, float(y) * y_scale] for x, y in value["points"]]
        names = ("x", "y", "radiusX", "radiusY") if kind == "ellipse" else ("x", "y", "width", "height")
        if kind in ("rectangle", "ellipse"):
            x, y, across, down = (float(value[name]) for name in names)
            draw = ellipse if kind == "ellipse" else rectangle
            turn = float(value.get("rotation") or 0)
            return draw(x * x_scale, y * y_scale, across * x_scale, down * y_scale, turn)
    except (KeyError, TypeError, ValueError):
        raise PairError(f"a {kind} must have numbers in percent of the picture, got {quoted(value)}") from None
    raise PairError(f"a {kind} is not read: export it as polygons, or export the project in COCO's format")


class LabelStudioDataModule(AnnotatedDataModule):
    """Loads the pairs of an export of Label Studio (``LabelStudioSource``)."""

    source_name = "label-studio"
    needs = "a JSON or JSON-MIN export of Label Studio"

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> LabelStudioSource:
        root = options.image_root or path.parent
        return LabelStudioSource(path, root, options.text_field, options.image_field)


register_datamodule("label-studio", LabelStudioDataModule)
