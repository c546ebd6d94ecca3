"""Where a saliency map lies on its picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.tower_attribution import Floats


@dataclass(frozen=True)
class PlacedMap:
    """A map enlarged to the part of the picture that the model saw.

    Attributes:
        rows: pixel rows of that part.
        columns: pixel columns of that part.
        values: (rows, columns) the enlarged map.
    """

    rows: slice
    columns: slice
    values: Floats

    def on_canvas(self, width: int, height: int, fill: float) -> Floats:
        """Return a canvas (height, width) with the map in its place, and ``fill`` where the model saw nothing."""
        canvas = np.full((height, width), fill, np.float32)
        canvas[self.rows, self.columns] = self.values
        return canvas


def place_map(saliency: Floats, pair: Pair, width: int, height: int, smooth: bool = True) -> PlacedMap:
    """Enlarge a map (grid_h, grid_w) for the pair's picture at ``width`` x ``height`` pixels.

    It is enlarged bilinearly, or in patches of one value each if it is not to be ``smooth``.
    """
    grid = Image.fromarray(saliency.astype(np.float32))
    left, top, right, bottom = pair.crop
    columns, (first_column, last_column) = _place_axis((left, right), pair.image_size[0], width, grid.width)
    rows, (first_row, last_row) = _place_axis((top, bottom), pair.image_size[1], height, grid.height)
    enlarged = grid.resize(
        (columns.stop - columns.start, rows.stop - rows.start),
        Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST,
        box=(first_column, first_row, last_column, last_row),
    )
    return PlacedMap(rows, columns, np.asarray(enlarged))


def _place_axis(crop: tuple[int, int], full: int, drawn: int, cells: int) -> tuple[slice, tuple[float, float]]:
    """Find where the map lies along one axis of the picture.

    Args:
        crop: first and last edge of what the model saw, in pixels of the original picture; may lie outside it.
        full: size of the original picture.
        drawn: size of the drawn picture.
        cells: size of the grid.

    Returns:
        The drawn pixels that the model saw, and where they start and end in the grid.
    """
    first = min(round(max(crop[0], 0) * drawn / full), drawn - 1)
    last = max(round(min(crop[1], full) * drawn / full), first + 1)
    edges = ((edge * full / drawn - crop[0]) / (crop[1] - crop[0]) * cells for edge in (first, last))
    start, end = (min(max(edge, 0.0), float(cells)) for edge in edges)
    return slice(first, last), (start, end)
