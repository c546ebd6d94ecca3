"""Masks: their run lengths, as COCO has them, and how well two of them agree.

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


def to_rle(mask: ArrayLike) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: column by column, outside and inside in turn, beginning with outside.

    >>> to_rle([[True, False], [True, True]])
    {'size': [2, 2], 'counts': [0, 2, 1, 1]}
    """
    array = _bool(mask)
    flat = array.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(changes, prepend=0, append=flat.size).tolist()
    return {"size": [*array.shape], "counts": [0, *counts] if flat[0] else counts}


def from_rle(rle: Mapping[str, Any]) -> Mask:
    """The mask (H, W) of COCO's uncompressed run lengths.

    Raises:
        M2IBError: if the counts don't fill the size.

    >>> from_rle({"size": [2, 2], "counts": [0, 2, 1, 1]}).tolist()
    [[True, False], [True, True]]
    """
    (height, width), counts = rle["size"], rle["counts"]
    if isinstance(counts, str | bytes) or sum(counts) != height * width or min(counts, default=0) < 0:
        raise M2IBError(f"run lengths must be whole numbers that add up to {height} x {width}, got {counts!r:.80}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape((height, width), order="F")


def dice(a: ArrayLike, b: ArrayLike) -> float:
    r"""Twice what two masks share, over the sum of their areas (Dice, 1945); NaN where both are empty.

    .. math::
        2 |A \cap B| \,/\, (|A| + |B|)

    >>> dice([[True, True]], [[True, False]])
    0.6666666666666666
    """
    both, either = _overlap(a, b)
    return 2 * both / (both + either) if either else math.nan


def iou(a: ArrayLike, b: ArrayLike) -> float:
    r"""What two masks share, over what either covers (Jaccard, 1912); NaN where both are empty.

    .. math::
        |A \cap B| \,/\, |A \cup B|

    >>> iou([[True, True]], [[True, False]])
    0.5
    """
    both, either = _overlap(a, b)
    return both / either if either else math.nan


def _overlap(a: ArrayLike, b: ArrayLike) -> tuple[int, int]:
    """Pixels in both, and in either."""
    first, second = _bool(a), _bool(b)
    if first.shape != second.shape:
        raise M2IBError(f"two masks must be of one size, got {first.shape} and {second.shape}: resize one (nearest)")
    return int((first & second).sum()), int((first | second).sum())


def _bool(mask: ArrayLike) -> Mask:
    array = np.asarray(mask)
    if array.dtype != np.bool_ or array.ndim != 2 or not array.size:
        raise M2IBError(
            f"a mask must be (H, W) of bool, got {array.shape} of {array.dtype}: write it as map > threshold"
        )
    return array
