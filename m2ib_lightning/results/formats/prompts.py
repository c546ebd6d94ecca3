"""Regions as prompts of a segmenter that takes boxes and points, as SAM and MedSAM do: ``prompts.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.segmentation import Regions
from m2ib_lightning.results.thresholds import Mask
from m2ib_lightning.results.tower_attribution import Floats

_TIE = 1e-6
"""Largest difference in [0, 1] of pixels that are equally high: the edge of an enlarged map is flat."""


class PromptsFile:
    """Writes a line for each pair.

    Args:
        folder: folder with ``pictures/``, if pictures are copied.
        file: file ``prompts.jsonl``, open for writing.
        pictures: the pictures of the run.
    """

    def __init__(self, folder: Path, file: BinaryIO, pictures: Pictures) -> None:
        self._folder = folder
        self._file = file
        self._pictures = pictures

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write the prompts of one pair; see ``MaskWriter``."""
        pair = result.pair
        line: dict[str, Any] = {"key": pair.key, "id": pair.id, "image": pair.image, "caption": pair.caption}
        if self._pictures.copies:
            copy = self._pictures.copy(pair, self._folder / "pictures", Path(mask_name).stem)
            line["picture"] = None if copy is None else f"pictures/{copy}"
        line |= {"size": list(pair.image_size), **prompts(regions, result.image_heatmap)}
        self._file.write(json.dumps(line).encode() + b"\n")


def prompts(regions: Regions, heatmap: Floats) -> dict[str, Any]:
    """Return the prompts of a picture.

    Args:
        regions: regions of the heatmap.
        heatmap: (H, W) the heatmap, at the size of the regions.

    Returns:
        ``box``: [x0, y0, x1, y1] around all regions, right and bottom edge outside; None if there is no region.
        ``points``: [x, y] of the highest pixel of each region, the highest first; of equal pixels, the middle one.
        ``labels``: 1 (foreground) for each point.

    >>> from m2ib_lightning.results.segmentation import segment
    >>> heatmap = np.float32([[0.0, 0.0, 0.0, 0.9], [1.0, 0.8, 0.0, 0.0]])
    >>> prompts(segment(heatmap), heatmap)
    {'box': [0, 0, 4, 2], 'points': [[0, 1], [3, 0]], 'labels': [1, 1]}
    """
    peaks = []
    for mask in regions.components:
        height = float(heatmap[mask].max())
        peaks.append((height, _middle(mask & (heatmap >= height - _TIE))))
    peaks.sort(key=lambda peak: -peak[0])  # stable: regions of equal height stay in their order
    corners = [(x, y, x + width, y + height) for x, y, width, height in regions.boxes]
    box = None
    if corners:
        left, top, right, bottom = zip(*corners, strict=True)
        box = [min(left), min(top), max(right), max(bottom)]
    return {"box": box, "points": [point for _, point in peaks], "labels": [1] * len(peaks)}


def _middle(mask: Mask) -> list[int]:
    """Return [x, y] of the pixel of a mask that is nearest to the mean of its pixels."""
    pixels = np.argwhere(mask)
    y, x = pixels[np.linalg.norm(pixels - pixels.mean(axis=0), axis=1).argmin()].tolist()
    return [x, y]


@contextmanager
def prompts_file(folder: Path, pictures: Pictures) -> Iterator[PromptsFile]:
    """Open ``prompts.jsonl`` in a folder, by an atomic write."""
    with atomic_write(folder / "prompts.jsonl") as file:
        yield PromptsFile(folder, file, pictures)
