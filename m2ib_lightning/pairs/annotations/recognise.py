"""Recognise the layout of a file, so that the error of a wrong source can name the right one."""

from __future__ import annotations

import csv
import json
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

_MAX_BYTES = 2**32
"""Size of the largest JSON file that is read for its layout."""

_MAX_LINE = 2**16


class Layout(NamedTuple):
    """A known layout of annotations.

    Attributes:
        source: the data source that reads it (``data.name``).
        description: what the file is.
    """

    source: str
    description: str


COCO = Layout("coco", "a COCO captions file")
INSTANCES = Layout("coco", "a COCO instances file, which has no captions (data.instances takes it)")
MS_CXR = Layout("ms-cxr", "an MS-CXR file")
FLICKR = Layout("flickr30k-entities", "a Flickr30k Entities folder")
REFCOCO = Layout("refcoco", "a file of RefCOCO's referring expressions")
PICKLE = Layout("refcoco", "a pickle, which can run code and is never opened (docs/data.md converts it)")
REGIONS = Layout("visual-genome", "a file of Visual Genome's region descriptions")
LABELME = Layout("labelme", "annotated with LabelMe")
LABEL_STUDIO = Layout("label-studio", "an export of Label Studio")
CONCEPTUAL = Layout("conceptual-captions", "a list of captions and URLs like Conceptual Captions")

PICKLES = (".p", ".pkl", ".pickle")


def recognise(path: Path) -> Layout | None:
    """Return the layout of a file or folder; None if it is none of the known ones."""
    try:
        if path.is_dir():
            return _of_folder(path)
        suffix = path.suffix.lower()
        if suffix in PICKLES:
            return PICKLE
        if suffix == ".json" and path.stat().st_size <= _MAX_BYTES:
            return of_json(json.loads(path.read_bytes()))
        return _of_lines(path, suffix) if suffix in (".csv", ".tsv") else None
    except (OSError, ValueError, RecursionError):
        return None


def _of_folder(folder: Path) -> Layout | None:
    if (folder / "Sentences").is_dir() and (folder / "Annotations").is_dir():
        return FLICKR
    for file in islice(sorted(folder.glob("*.json")), 3):
        if of_json(json.loads(file.read_bytes())) == LABELME:
            return LABELME
    return None


def _of_lines(path: Path, suffix: str) -> Layout | None:
    with path.open(encoding="utf-8-sig") as lines:
        first = lines.readline(_MAX_LINE).rstrip("\r\n")
    if suffix == ".tsv":
        cells = first.split("\t")
        return CONCEPTUAL if len(cells) == 2 and "://" in cells[1] else None
    return MS_CXR if {"dicom_id", "label_text", "x", "y", "w", "h"} <= set(next(csv.reader([first]), ())) else None


def of_json(content: Any) -> Layout | None:
    """Return the layout of the content of a JSON file, or None."""
    if isinstance(content, list):
        return _of_list(_first(content))
    if not isinstance(content, dict):
        return None
    if isinstance(content.get("shapes"), list) and "imagePath" in content:
        return LABELME
    annotation = _first(content.get("annotations"))
    if "images" not in content or not annotation:
        return None
    if "label_text" in annotation:
        return MS_CXR
    if "caption" in annotation:
        return COCO
    return INSTANCES if "bbox" in annotation or "segmentation" in annotation else None


def _of_list(first: dict[str, Any]) -> Layout | None:
    for layout, names in (
        (REGIONS, {"regions"}),
        (REFCOCO, {"sentences", "ann_id"}),
        (LABEL_STUDIO, {"data", "annotations"}),
        (LABEL_STUDIO, {"annotation_id"}),
    ):
        if names <= first.keys():
            return layout
    return None


def _first(value: Any) -> dict[str, Any]:
    return value[0] if isinstance(value, list) and value and isinstance(value[0], dict) else {}
