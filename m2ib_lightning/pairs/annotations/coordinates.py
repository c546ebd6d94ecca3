"""Boxes and polygons of annotations, checked against the picture they were drawn on.

Legend: H x W pixels. A point (x, y) is in pixels from the upper left corner of the picture; the middle of its first
pixel is (0.5, 0.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.errors import PairError, quoted

Mask = NDArray[np.bool_]

MAX_PIXELS = 2**28
"""Largest number of pixels of a picture whose masks are drawn."""

Size = tuple[int, int]
"""(width, height) of a picture in pixels."""


def checked_size(width: Any, height: Any) -> Size:
    """Return the size of a picture as an annotation states it.

    Raises:
        PairError: if width or height is not a whole number above 0, or the picture is too large.
    """
    try:
        size = int(width), int(height)
        if min(size) < 1 or size != (float(width), float(height)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        raise PairError(
            f"the size of the picture must be whole numbers above 0, got {quoted([width, height])}"
        ) from None
    if size[0] * size[1] > MAX_PIXELS:
        raise PairError(f"the picture has {size[0]} x {size[1]} pixels; annotations of up to {MAX_PIXELS:,} are read")
    return size


def checked_box(box: Any, size: Size | None = None) -> list[float]:
    """Return a box (left, top, width, height).

    Args:
        box: the four numbers, or texts of them.
        size: (width, height) of the picture; None if the annotation does not state it.

    Raises:
        PairError: if the box is not four finite numbers, is empty, or lies outside the picture. A box that reaches
            beyond the picture is fine: what lies in the picture counts.

    >>> checked_box(["1", 2, 3.5, 4])
    [1.0, 2.0, 3.5, 4.0]
    """
    try:
        left, top, width, height = (float(value) for value in box)
    except (TypeError, ValueError, OverflowError):
        raise PairError(f"a box must be [left, top, width, height] in pixels, got {quoted(box)}") from None
    if not all(map(math.isfinite, (left, top, width, height))):
        raise PairError(f"a box must have finite numbers, got {quoted(box)}")
    if width <= 0 or height <= 0:
        raise PairError(f"the box {quoted(box)} is empty: its width and height must be above 0")
    outside = left + width <= 0 or top + height <= 0
    if outside or (size is not None and (left >= size[0] or top >= size[1])):
        of_size = "" if size is None else f" of {size[0]} x {size[1]} pixels"
        raise PairError(f"the box {quoted(box)} lies outside the picture{of_size}")
    return [left, top, width, height]


def checked_points(points: Any, size: Size) -> NDArray[np.float64]:
    """Return the corners (N, 2) of a polygon.

    Args:
        points: pairs of numbers.
        size: (width, height) of the picture.

    Raises:
        PairError: if there are fewer than three finite points, or the polygon lies outside the picture.
    """
    try:
        corners = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        corners = np.empty(0)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3 or not np.isfinite(corners).all():
        raise PairError(f"a polygon must have at least three points [x, y], got {quoted(points)}")
    if (corners.max(0) <= 0).any() or (corners.min(0) >= size).any():
        raise PairError(f"the polygon {quoted(points)} lies outside the picture of {size[0]} x {size[1]} pixels")
    return corners


def mask_of_polygon(corners: NDArray[np.float64], size: Size) -> Mask:
    """Return the mask (H, W) of the pixels whose middle lies in a polygon (N, 2), by the even-odd rule.

    >>> mask_of_polygon(np.array([[1, 0], [3, 0], [3, 2], [1, 2.0]]), (4, 2)).astype(int).tolist()
    [[0, 1, 1, 0], [0, 1, 1, 0]]
    """
    width, height = size
    # each crossing of a row's middle with an edge changes inside to outside for all pixels to its right
    crossings = np.zeros((height, width + 1), np.uint8)  # counts may wrap around: only even or odd matters
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, 0), strict=True):
        first, last = sorted((_first_middle(y0, height), _first_middle(y1, height)))
        if first == last:
            continue
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        crossings[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(np.int64)] += 1
    return np.asarray(np.bitwise_xor.accumulate(crossings[:, :width] & 1, axis=1).astype(np.bool_))


def _first_middle(y: float, height: int) -> int:
    """The first row whose middle is at ``y`` or below it."""
    return min(max(math.ceil(y - 0.5), 0), height)


def mask_of_box(box: Sequence[float], size: Size) -> Mask:
    """Return the mask (H, W) of a box (left, top, width, height)."""
    left, top, width, height = box
    mask = np.zeros(size[::-1], np.bool_)
    rows = slice(max(round(top), 0), max(round(top + height), 0))
    mask[rows, max(round(left), 0) : max(round(left + width), 0)] = True
    return mask
