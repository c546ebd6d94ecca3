"""Load MS-CXR: sentences of radiology reports, with boxes on chest X-rays."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import AnnotatedDataModule, AnnotationOptions, chosen_split
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.coordinates import checked_box, checked_size
from m2ib_lightning.pairs.annotations.json_files import by_id, id_of, read_json, records
from m2ib_lightning.pairs.tables.delimited import open_delimited
from m2ib_lightning.pairs.truth import RawTruth

_COLUMNS = ("dicom_id", "label_text", "x", "y", "w", "h")


@dataclass
class Finding:
    """A sentence about one picture.

    Attributes:
        identity: number of the sentence's first row in the CSV file, or id of its first annotation in the JSON file.
        image: path of the picture.
        sentence: the sentence.
        size: width and height of the picture, as the file states them; None if it does not.
        boxes: boxes (left, top, width, height) in pixels of the original picture.
        categories: names of the findings.
        split: name of the split, if the file has splits.
        error: reason why the row could not be read, or None.
    """

    identity: Any
    image: Any
    sentence: Any
    size: tuple[Any, Any] | None = None
    boxes: list[Any] = field(default_factory=list)
    categories: set[str] = field(default_factory=set)
    split: str | None = None
    error: str | None = None


class MsCxrSource(AnnotatedSource):
    """The sentences of an MS-CXR file, each with all its boxes. The key is ``<file>:<its first row or annotation>``.

    Args:
        file: the CSV file (a row per box), or the JSON file in COCO's layout.
        image_root: folder of the pictures; the paths of the file start there.
        split: split to read; None for all.

    Raises:
        M2IBError: if the file can't be read, has another layout, or lacks the split.
    """

    def __init__(self, file: Path, image_root: Path, split: str | None = None) -> None:
        findings = _from_csv(file) if file.suffix.lower() == ".csv" else _from_json(file)
        chosen_split(file.name, split, {found.split for found in findings if found.split})
        self.findings = [found for found in findings if split is None or found.split == split]
        identities = (found.identity for found in self.findings)
        super().__init__(file.name, image_root, identities, {file.name: str(file)})

    @override
    def annotated(self, index: int) -> Annotated:
        found = self.findings[index]
        if found.error is not None:
            raise PairError(found.error)
        size = None if found.size is None else checked_size(*found.size)
        truth = RawTruth(
            boxes=[checked_box(box, size) for box in found.boxes],
            label=next(iter(found.categories)) if len(found.categories) == 1 else None,
            size=size,
        )
        return Annotated(found.image, found.sentence, truth)


def _from_csv(file: Path) -> list[Finding]:
    table = open_delimited(file, ("label_text", "path"))
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise M2IBError(f"{str(file)!r} is not an MS-CXR file: it has no column {', '.join(missing)}")
    findings: dict[Any, Finding] = {}
    for row in range(len(table)):
        try:
            cells = table[row]
        except PairError as error:
            findings[row] = Finding(row, None, None, error=str(error))
            continue
        image, sentence = cells.get("path") or f"{cells['dicom_id']}.jpg", cells["label_text"]
        size = (cells.get("image_width"), cells.get("image_height"))
        found = findings.setdefault(
            (image, sentence), Finding(row, image, sentence, size if all(size) else None, split=cells.get("split"))
        )
        found.boxes.append([cells[name] for name in ("x", "y", "w", "h")])
        if category := cells.get("category_name"):
            found.categories.add(category)
    return list(findings.values())


def _from_json(file: Path) -> list[Finding]:
    content = read_json(file)
    layout = "an MS-CXR file in COCO's layout"
    images = by_id(records(content, "images", file, layout))
    categories = by_id(records(content, "categories", file, layout))
    annotations = records(content, "annotations", file, layout)
    if annotations and not any("label_text" in found for found in annotations[:100]):
        raise M2IBError(f"{str(file)!r} is not {layout}: its annotations have no 'label_text'")
    findings: dict[Any, Finding] = {}
    for annotation in annotations:
        identity, image_id, sentence = (annotation.get(name) for name in ("id", "image_id", "label_text"))
        image, category = images.get(id_of(annotation, "image_id")), categories.get(id_of(annotation, "category_id"))
        why = None
        if image is None:
            why = f"the image_id {quoted(image_id)} is not among the images of {file.name}"
        elif category is None:
            why = f"the category_id {quoted(annotation.get('category_id'))} is not among the categories of {file.name}"
        if image is None or category is None:
            findings[f"error {len(findings)}"] = Finding(identity, None, None, error=why)
            continue
        size = tuple(image.get(name, annotation.get(name)) for name in ("width", "height"))
        found = findings.setdefault(
            (repr(image_id), repr(sentence)),
            Finding(
                identity,
                image.get("path") or image.get("file_name"),
                sentence,
                (size[0], size[1]) if None not in size else None,
                split=image.get("split", annotation.get("split")),
            ),
        )
        found.boxes.append(annotation.get("bbox"))
        found.categories.add(str(category.get("name")))
    return list(findings.values())


class MsCxrDataModule(AnnotatedDataModule):
    """Loads the pairs of an MS-CXR file (``MsCxrSource``)."""

    source_name = "ms-cxr"
    needs = "MS-CXR's MS_CXR_Local_Alignment_*.csv or .json"
    reads = ("split",)

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> MsCxrSource:
        if path.suffix.lower() not in (".csv", ".json"):
            raise M2IBError(f"data.path={str(path)!r}: data.name=ms-cxr needs {self.needs}")
        return MsCxrSource(path, options.image_root or path.parent, options.split)


register_datamodule("ms-cxr", MsCxrDataModule)
