"""Masks as PNG files: 255 inside, 0 outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.segmentation import Regions
from m2ib_lightning.results.thresholds import Mask


def save_mask(mask: Mask, path: Path) -> None:
    """Write a mask (H, W) as a PNG file, by an atomic write."""
    with atomic_write(path) as file:
        Image.fromarray(mask).convert("L").save(file, format="PNG")


class PngMasks:
    """Writes a PNG file for each pair.

    Args:
        folder: folder of the files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write the mask of one pair; see ``MaskWriter``."""
        save_mask(regions.mask, self._folder / mask_name)


@contextmanager
def png_masks(folder: Path) -> Iterator[PngMasks]:
    """Open a folder for masks."""
    yield PngMasks(folder)
