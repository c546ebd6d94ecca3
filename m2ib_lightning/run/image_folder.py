"""A run as an image folder that ``datasets.load_dataset("imagefolder", data_dir=...)`` reads."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.tower_attribution import Floats
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.table import load_attributions

FIELDS = ("file_name", "heatmap_file_name", "key", "id", "picture", "caption", "similarity", "error")
"""Columns of ``metadata.csv``. ``datasets`` makes the first two pictures: ``image`` and ``heatmap``."""

_READ = (
    *("key", "id", "image", "caption", "similarity", "error"),
    *("image_saliency", "grid_height", "grid_width", "image_width", "image_height", "crop"),
)


def export_image_folder(run: str | Path, folder: Path, pictures: Pictures) -> Counter[str]:
    """Write the pictures, the heatmaps and ``metadata.csv`` of a run.

    Every pair has a row of ``metadata.csv``, in source order. A failed pair has its ``error`` and no files. Heatmaps
    are grey pictures of the picture's own size, from 0 (black) to 1 (white). ``metadata.csv`` is written last.

    Args:
        run: run directory of ``task=attribute``.
        folder: folder to write to: a new or an empty one.
        pictures: the pictures of the run; they are copied to ``pictures/``.

    Returns:
        The numbers of ``rows``, ``pictures``, ``heatmaps`` and ``failed`` pairs.

    Raises:
        M2IBError: if the folder is not empty or can't be made, or the run can't be read.
    """
    rows = load_attributions(run, _READ)
    _make_empty(folder)
    counts: Counter[str] = Counter()
    with atomic_write(folder / "metadata.csv") as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
        table = csv.DictWriter(text, _fields_of(rows, pictures))
        table.writeheader()
        for row in rows:
            table.writerow(_export(row, folder, pictures, counts))
        text.detach()
    return counts


def _make_empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise M2IBError(f"the folder {str(folder)!r} must be new or empty: give another one, or empty it")
        (folder / "heatmaps").mkdir()
    except OSError as error:
        raise M2IBError(f"could not make the folder {str(folder)!r}: {error}") from None


def _fields_of(rows: Any, pictures: Pictures) -> list[str]:
    """Return the columns; without any picture there is no ``file_name``, which ``datasets`` would take for numbers."""
    has_picture = any(pictures.has_file(image) for image in rows["image"])
    return [field for field in FIELDS if has_picture or field != "file_name"]


def _export(row: dict[str, Any], folder: Path, pictures: Pictures, counts: Counter[str]) -> dict[str, Any]:
    """Write the files of a pair; return its row of ``metadata.csv``."""
    cells = {name: row[name] for name in ("key", "id", "caption", "similarity", "error")}
    cells["picture"] = row["image"]
    result = Attribution.from_row(row)
    counts["rows"] += 1
    if result.error is not None:
        counts["failed"] += 1
        return cells
    name = heatmap_name(result.pair.id, result.pair.key)
    _save_heatmap(result.image_heatmap, folder / "heatmaps" / name)
    cells["heatmap_file_name"] = f"heatmaps/{name}"
    counts["heatmaps"] += 1
    copy = pictures.copy(result.pair, folder / "pictures", Path(name).stem)
    if copy is not None:
        cells["file_name"] = f"pictures/{copy}"
        counts["pictures"] += 1
    return cells


def _save_heatmap(heatmap: Floats, path: Path) -> None:
    with atomic_write(path) as file:
        Image.fromarray(np.round(heatmap * 255).astype(np.uint8)).save(file, format="PNG")
