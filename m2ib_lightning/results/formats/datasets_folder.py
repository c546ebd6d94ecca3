"""Masks as an image folder that ``datasets.load_dataset("imagefolder", data_dir=...)`` reads."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.formats.png_masks import save_mask
from m2ib_lightning.results.segmentation import Regions


class DatasetsFolder:
    """Writes a mask and a line of ``metadata.jsonl`` for each pair.

    ``mask_file_name`` becomes the column ``mask``, and ``file_name`` (if pictures are copied) the column ``image``.
    Boxes are [x0, y0, x1, y1] in pixels.

    Args:
        folder: folder with ``masks/`` and, if pictures are copied, ``pictures/``.
        metadata: file ``metadata.jsonl``, open for writing.
        pictures: the pictures of the run.
    """

    def __init__(self, folder: Path, metadata: BinaryIO, pictures: Pictures) -> None:
        self._folder = folder
        self._metadata = metadata
        self._pictures = pictures

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write one pair; see ``MaskWriter``."""
        pair = result.pair
        save_mask(regions.mask, self._folder / "masks" / mask_name)
        line: dict[str, Any] = {}
        if self._pictures.copies:
            copy = self._pictures.copy(pair, self._folder / "pictures", Path(mask_name).stem)
            line["file_name"] = None if copy is None else f"pictures/{copy}"
        boxes = [[x, y, x + width, y + height] for x, y, width, height in regions.boxes]
        line |= {"mask_file_name": f"masks/{mask_name}", "picture": pair.image, "key": pair.key, "id": pair.id}
        line |= {"caption": pair.caption, "boxes": boxes}
        self._metadata.write(json.dumps(line).encode() + b"\n")


@contextmanager
def datasets_folder(folder: Path, pictures: Pictures) -> Iterator[DatasetsFolder]:
    """Open an image folder; ``metadata.jsonl`` is written atomically."""
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "metadata.jsonl") as file:
        yield DatasetsFolder(folder, file, pictures)
