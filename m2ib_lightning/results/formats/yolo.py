"""Regions as labels of YOLO: a text file for each pair, with a line ``class x y width height`` for each region."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from m2ib_lightning.files import atomic_write, atomic_write_text
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.segmentation import Regions

DATA_YAML = """\
# labels/NAME.txt belongs to images/NAME.jpg or images/NAME.png; pictures.jsonl says which picture that is
train: images
val: images
names:
  0: explained
"""
"""Text of ``data.yaml``. Without ``path``, its folders are beside it."""


class YoloFolder:
    """Writes the labels of each pair, and a line of ``pictures.jsonl``.

    Args:
        folder: folder with ``labels/`` and, if pictures are copied, ``images/``.
        list_of_pictures: file ``pictures.jsonl``, open for writing.
        pictures: the pictures of the run.
    """

    def __init__(self, folder: Path, list_of_pictures: BinaryIO, pictures: Pictures) -> None:
        self._folder = folder
        self._list = list_of_pictures
        self._pictures = pictures

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write the labels of one pair, an empty file if it has no region; see ``MaskWriter``."""
        pair, stem = result.pair, Path(mask_name).stem
        atomic_write_text(self._folder / "labels" / f"{stem}.txt", yolo_labels(regions, *pair.image_size))
        self._pictures.copy(pair, self._folder / "images", stem)
        line = {"labels": f"labels/{stem}.txt", "key": pair.key, "image": pair.image, "caption": pair.caption}
        self._list.write(json.dumps(line).encode() + b"\n")


def yolo_labels(regions: Regions, width: int, height: int) -> str:
    r"""Return a line for each region: class 0, centre x, centre y, width and height, as shares of the picture's size.

    >>> from m2ib_lightning.results.segmentation import segment
    >>> yolo_labels(segment([[0.0, 0.0, 0.0, 0.0], [1.0, 0.8, 0.0, 0.0]]), 4, 2)
    '0 0.250000 0.750000 0.500000 0.500000\n'
    """
    lines = ""
    for x, y, w, h in regions.boxes:
        shares = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
        lines += f"0 {' '.join(f'{share:.6f}' for share in shares)}\n"
    return lines


@contextmanager
def yolo_folder(folder: Path, pictures: Pictures) -> Iterator[YoloFolder]:
    """Open a folder for YOLO's labels; write its ``data.yaml``."""
    for name in ("labels", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "pictures.jsonl") as file:
        yield YoloFolder(folder, file, pictures)
    atomic_write_text(folder / "data.yaml", DATA_YAML)
