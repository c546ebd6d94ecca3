"""Binary masks: their run lengths in COCO's format, and the overlap of two masks.

Legend: H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.thresholds import Mask

_MAX_SHIFT = 60
"""Largest number of bits of a compressed count."""


def to_rle(mask: ArrayLike) -> dict[str, list[int]]:
    """Return a mask (H, W) as COCO's uncompressed run lengths.

    The counts go column by column. They alternate between outside and inside, and start outside.

    Raises:
        M2IBError: if the mask is not (H, W) of bool.

    >>> to_rle([[True, False], [True, True]])
    {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    """
    array = _checked_mask(mask)
    flat = array.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    return {"size": [*array.shape], "counts": [0, *counts] if flat[0] else counts}


def from_rle(rle: Mapping[str, Any]) -> Mask:
    """Return the mask (H, W) of COCO's run lengths, whose counts are a list, or compressed as text.

    Raises:
        M2IBError: if the counts do not add up to the size.

    >>> from_rle({"size": [2, 2], "counts": [0, 2, 1, 1]}).tolist()
    [[True, False], [True, True]]
    >>> from_rle({"size": [2, 2], "counts": "021O"}).tolist()
    [[True, False], [True, True]]
    """
    (height, width), counts = rle["size"], rle["counts"]
    if isinstance(counts, str | bytes):
        counts = _decompressed(counts)
    whole = all(type(count) is int for count in (height, width, *counts))
    if not whole or sum(counts) != height * width or min(counts, default=0) < 0:
        raise M2IBError(f"run lengths must be whole numbers that add up to {height} x {width}, got {counts!r:.80}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((height, width), order="F")


def _decompressed(text: str | bytes) -> list[int]:
    """Return the counts of COCO's compressed run lengths.

    Each character carries 5 bits of a count, the lowest first, and whether more follow. From the fourth count on, the
    difference from the count two before is stored.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text.encode("utf-8") if isinstance(text, str) else text:
        bits = character - ord("0")
        if not 0 <= bits < 64 or shift > _MAX_SHIFT:
            raise M2IBError(f"{text!r:.80} are no compressed run lengths of COCO")
        value |= (bits & 0x1F) << shift
        shift += 5
        if bits & 0x20:
            continue
        if bits & 0x10:
            value -= 1 << shift
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    return counts


def dice(a: ArrayLike, b: ArrayLike) -> float:
    r"""Return the Dice coefficient of two masks (Dice, 1945); NaN if both masks are empty.

    .. math::
        2 |A \cap B| \,/\, (|A| + |B|)

    Raises:
        M2IBError: if the masks are not bool arrays (H, W) of one size.

    >>> dice([[True, True]], [[True, False]])
    0.6666666666666666
    """
    intersection, union = _areas(a, b)
    return 2 * intersection / (intersection + union) if union else math.nan


def iou(a: ArrayLike, b: ArrayLike) -> float:
    r"""Return the intersection over union of two masks (Jaccard, 1912); NaN if both masks are empty.

    .. math::
        |A \cap B| \,/\, |A \cup B|

    Raises:
        M2IBError: if the masks are not bool arrays (H, W) of one size.

    >>> iou([[True, True]], [[True, False]])
    0.5
    """
    intersection, union = _areas(a, b)
    return intersection / union if union else math.nan


def _areas(a: ArrayLike, b: ArrayLike) -> tuple[int, int]:
    """Return the number of pixels in the intersection and in the union of two masks."""
    first, second = _checked_mask(a), _checked_mask(b)
    if first.shape != second.shape:
        raise M2IBError(f"two masks must be of one size, got {first.shape} and {second.shape}: resize one (nearest)")
    return int((first & second).sum()), int((first | second).sum())


def _checked_mask(mask: ArrayLike) -> Mask:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2 or not array.size:
        raise M2IBError(
            f"a mask must be (H, W) of bool, got {array.shape} of {array.dtype}: write it as map > threshold"
        )
    return array
