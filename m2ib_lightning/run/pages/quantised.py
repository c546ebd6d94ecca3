"""Numbers of a page in 8 bits: the lowest, the highest, and a byte for each value between them."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    low, high = (float(numbers.min()), float(numbers.max())) if numbers.size else (0.0, 0.0)
    if math.isfinite(low) and math.isfinite(high):
        codes = _codes(numbers, low, high)
    else:
        finite = np.isfinite(numbers)
        codes = np.full(numbers.shape, STEPS + 1, np.uint8)
        low, high = (float(numbers[finite].min()), float(numbers[finite].max())) if finite.any() else (0.0, 0.0)
        codes[finite] = _codes(numbers[finite], low, high)
    return [float(f"{low:.7g}"), float(f"{high:.7g}"), base64.b64encode(codes.tobytes()).decode()]


def _codes(numbers: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    scale = STEPS / (high - low) if high > low else 0.0
    return np.rint((numbers - low) * scale).astype(np.uint8)
