"""Numbers of a page in 8 bits: the lowest, the highest, and a byte for each value between them."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

STEPS = 254
"""Number of steps between the lowest and the highest value. The byte 255 stands for a value that is not known."""


def quantised(values: Sequence[float | None] | None) -> list[Any] | None:
    """Return ``[lowest, highest, base64 of the bytes]``, or None for None.

    Byte ``b`` stands for ``lowest + b * (highest - lowest) / 254``, so a value is off by at most half such a step:
    0.2 % of the range of its map. The two ends are given with 7 digits.

    Args:
        values: finite numbers; null or NaN for one that is not known.

    >>> quantised([1.0, 3.0, None, 2.0])
    [1.0, 3.0, 'AP7/fw==']
    """
    if values is None:
        return None
    numbers = np.array(values, np.float64)  # None becomes NaN
    finite = np.isfinite(numbers)
    codes = np.full(numbers.shape, STEPS + 1, np.uint8)
    low = high = 0.0
    if finite.any():
        low, high = float(numbers[finite].min()), float(numbers[finite].max())
        scale = STEPS / (high - low) if high > low else 0.0
        codes[finite] = np.round((numbers[finite] - low) * scale)
    return [float(f"{low:.7g}"), float(f"{high:.7g}"), base64.b64encode(codes.tobytes()).decode()]
