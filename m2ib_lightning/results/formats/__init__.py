"""The forms in which the masks of a run are handed over, by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from m2ib_lightning.results.coco import coco_file
from m2ib_lightning.results.formats.datasets_folder import datasets_folder
from m2ib_lightning.results.formats.fiftyone_set import fiftyone_set
from m2ib_lightning.results.formats.mask_writer import MaskWriter
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.formats.png_masks import png_masks
from m2ib_lightning.results.formats.prompts import prompts_file
from m2ib_lightning.results.formats.yolo import yolo_folder
from m2ib_lightning.results.segmentation import RegionOptions

FORMATS: dict[str, Callable[[Path, RegionOptions, Pictures], AbstractContextManager[MaskWriter]]] = {
    "png": lambda out, _, __: png_masks(out),
    "coco": lambda out, options, _: coco_file(out / "masks.coco.json", options),
    "yolo": lambda out, _, pictures: yolo_folder(out / "yolo", pictures),
    "prompts": lambda out, _, pictures: prompts_file(out, pictures),
    "datasets": lambda out, _, pictures: datasets_folder(out / "datasets", pictures),
    "fiftyone": lambda out, options, pictures: fiftyone_set(out / "fiftyone", options, pictures),
}
"""Openers of the formats. Each takes the output folder, the options of the segmentation, and the pictures."""

DEFAULT_FORMATS = ("png", "coco")
"""Formats that are written if none is named."""
