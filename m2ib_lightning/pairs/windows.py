"""Windows of grey values: the range that becomes black to white in pictures of more than 8 bits."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.errors import M2IBError, quoted

DARKEST, BRIGHTEST = 0.005, 0.995
"""Quantiles of the pixels that ``auto`` makes black and white. The darkest and the brightest pixel of a picture always
lie outside them, so that one hot pixel does not decide.
"""

Limits = tuple[float, float]
"""The value that becomes black, and the value that becomes white."""

Window = Literal["auto", "full"] | Limits
"""``auto`` (quantiles), ``full`` (darkest to brightest pixel), or limits."""


def parse_window(text: str | None) -> Window | None:
    """Return the window that ``data.window`` names; None for None.

    >>> parse_window("40,400"), parse_window("auto")
    ((-160.0, 240.0), 'auto')

    Raises:
        M2IBError: if the text is not ``center,width``, ``auto`` or ``full``.
    """
    if text is None:
        return None
    word = str(text).strip().lower()
    if word in ("auto", "full"):
        return "auto" if word == "auto" else "full"
    try:
        center, width = (float(part) for part in word.split(","))
    except ValueError:
        center = width = math.nan
    if not (math.isfinite(center) and math.isfinite(width) and width > 0):
        raise M2IBError(
            "data.window must be 'center,width' (two numbers, the width above 0, such as 40,400), 'auto', 'full' or "
            f"null, got {quoted(text)}"
        )
    return center - width / 2, center + width / 2


def limits_of(grey: NDArray[Any], window: Window) -> Limits:
    """Return the limits of a window in a grey picture (H, W) of finite values."""
    if isinstance(window, tuple):
        return window
    if window == "auto":
        low, high = ranks(grey.size)
        ordered = np.partition(grey, (low, high), axis=None)
        if ordered[low] < ordered[high]:
            return float(ordered[low]), float(ordered[high])
    return float(grey.min()), float(grey.max())


def limits_of_counts(values: NDArray[np.float64], counts: NDArray[np.int64], window: Window) -> Limits:
    """Return the limits of a window in a picture that holds each value (N,) as often as its count (N,) says."""
    if isinstance(window, tuple):
        return window
    held = np.flatnonzero(counts)
    order = held[np.argsort(values[held], kind="stable")]
    if window == "auto":
        ends = np.cumsum(counts[order])
        low, high = values[order][np.searchsorted(ends, ranks(int(ends[-1])), side="right")]
        if low < high:
            return float(low), float(high)
    return float(values[order[0]]), float(values[order[-1]])


def ranks(pixels: int) -> tuple[int, int]:
    """Return the ranks of the pixels that ``auto`` makes black and white, among ``pixels`` sorted ones.

    >>> ranks(64), ranks(100_000)
    ((1, 62), (500, 99499))
    """
    low, high = math.ceil(DARKEST * (pixels - 1)), math.floor(BRIGHTEST * (pixels - 1))
    return (low, high) if low <= high else (0, pixels - 1)


def stretch(values: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
    """Return values as grey levels 0 to 255, linear between the limits and clipped outside them."""
    low, high = limits
    scaled = (values.astype(np.float64) - low) / ((high - low) or 1)
    return (scaled.clip(0, 1) * 255).round().astype(np.uint8)
