"""Segmentation of a heatmap: a mask, its connected parts, and their boxes.

Legend: H x W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.results.thresholds import TAKES_A_VALUE, THRESHOLDS, Mask, Threshold, Values

Keep = Literal["all", "largest"]

_FLAT = 1e-12
"""Largest relative range of a blank map: the values of such a map differ only by rounding."""

_FADED = 1e-6
"""Largest share of its contrast that a smoothed map may keep and still be blank: the Gaussian's truncation error."""


@dataclass(frozen=True)
class RegionOptions:
    """The options of ``segment``, which cuts a heatmap into regions.

    Attributes:
        threshold: ``otsu``, ``two_means``, ``fixed`` (a fraction of the way from lowest to highest) or ``energy`` (the
            highest pixels that hold a fraction of the positive mass); see ``m2ib_lightning.results.thresholds``.
        value: the fraction of ``fixed`` or ``energy``, above 0 and at most 1; the other thresholds do not use it.
        smooth: standard deviation, in pixels, of the Gaussian that smooths the map first; 0 for no smoothing.
        connectivity: 4 (pixels that share a side are connected) or 8 (a side or a corner).
        keep: ``all`` keeps every part, ``largest`` only the largest one.
        min_area: smallest number of pixels of a part; smaller parts are dropped.

    Raises:
        M2IBError: if an option is out of range.

    >>> RegionOptions("energy", 0.3).value
    0.3
    """

    threshold: Threshold = "otsu"
    value: float = 0.5
    smooth: float = 0.0
    connectivity: Literal[4, 8] = 8
    keep: Keep = "all"
    min_area: int = 1

    def __post_init__(self) -> None:
        if self.threshold not in THRESHOLDS:
            names = ", ".join(THRESHOLDS)
            raise M2IBError(
                f"threshold={self.threshold!r} is unknown.{nearest(str(self.threshold), THRESHOLDS)} "
                f"Thresholds: {names}"
            )
        if self.keep not in get_args(Keep):
            raise M2IBError(f"keep must be 'all' or 'largest', got {self.keep!r}")
        if not 0 < self.value <= 1:
            raise M2IBError(f"value must be above 0 and at most 1, got {self.value!r}")
        if not 0 <= self.smooth < math.inf:
            raise M2IBError(f"smooth must be 0 or more pixels, got {self.smooth!r}")
        if self.connectivity not in (4, 8):
            raise M2IBError(f"connectivity must be 4 (sides) or 8 (sides and corners), got {self.connectivity!r}")
        if self.min_area < 1:
            raise M2IBError(f"min_area must be 1 pixel or more, got {self.min_area!r}")


@dataclass(frozen=True, eq=False)
class Regions:
    """The connected parts of a heatmap's mask, largest first. Parts of equal area are in reading order.

    Attributes:
        labels: (H, W) int32; 0 outside the parts, n in the n-th part, from 1.
        boxes: COCO box [x, y, width, height] of each part, in whole pixels.
        areas: number of pixels of each part.
        scores: mean of the heatmap in each part, before smoothing.
    """

    labels: NDArray[np.int32]
    boxes: list[list[int]]
    areas: list[int]
    scores: list[float]

    @property
    def mask(self) -> Mask:
        """Mask (H, W) of all parts together."""
        return self.labels > 0

    @property
    def components(self) -> list[Mask]:
        """Mask (H, W) of each part."""
        return [self.labels == number for number in range(1, len(self.areas) + 1)]


def segment(heatmap: ArrayLike, options: RegionOptions | None = None) -> Regions:
    """Cut a heatmap into regions.

    Args:
        heatmap: (H, W) min-max or raw values. NaN marks pixels that the model did not see; they are ignored.
        options: options of the segmentation; None for the defaults.

    Returns:
        The regions; none if the map is blank (all values equal, or all NaN).

    Raises:
        M2IBError: if the heatmap is not an array (H, W) of numbers, holds infinity, or scipy is missing.

    >>> regions = segment([[0.0, 0.0, 0.0, 0.9], [1.0, 0.8, 0.0, 0.0]])
    >>> regions.boxes, regions.areas
    ([[0, 1, 2, 1], [3, 0, 1, 1]], [2, 1])
    """
    options = options or RegionOptions()
    values = _checked(heatmap)
    return _connected_parts(_high_pixels(values, options), values, options)


def _checked(heatmap: ArrayLike) -> Values:
    try:
        values = np.asarray(heatmap, np.float64)
    except (TypeError, ValueError) as error:
        raise M2IBError(f"a heatmap must be an array (H, W) of numbers: {error}") from None
    if values.ndim != 2 or not values.size:
        raise M2IBError(f"a heatmap must be (H, W), got shape {values.shape}: give one map, without a batch")
    if np.isinf(values).any():
        raise M2IBError("a heatmap must be finite (NaN where the model saw nothing), got infinite values")
    return values


def _high_pixels(values: Values, options: RegionOptions) -> Mask:
    """Return the mask (H, W) of the pixels above the threshold."""
    mask, seen = np.zeros(values.shape, np.bool_), ~np.isnan(values)
    if _is_blank(values[seen]):
        return mask
    inside = _smoothed(values, seen, options.smooth)[seen]
    if np.ptp(inside) > _FADED * np.ptp(values[seen]):
        arguments = (options.value,) if options.threshold in TAKES_A_VALUE else ()
        mask[seen] = THRESHOLDS[options.threshold](inside, *arguments)
    return mask


def _is_blank(values: Values) -> bool:
    return not values.size or bool(values.max() - values.min() <= _FLAT * np.abs(values).max())


def _smoothed(values: Values, seen: Mask, sigma: float) -> Values:
    """Return the map smoothed with a Gaussian, in which unseen pixels have no weight."""
    if not sigma:
        return values
    smooth = _ndimage().gaussian_filter
    weight = smooth(seen.astype(np.float64), sigma)
    total = smooth(np.where(seen, values, 0.0), sigma)
    return np.divide(total, weight, out=np.full_like(values, np.nan), where=seen)


def _connected_parts(mask: Mask, values: Values, options: RegionOptions) -> Regions:
    """Return the connected parts of a mask, as far as the options keep them."""
    ndimage = _ndimage()
    labels, count = ndimage.label(mask, ndimage.generate_binary_structure(2, 1 if options.connectivity == 4 else 2))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    order = [int(label) for label in np.argsort(-sizes[1:], kind="stable") + 1 if sizes[label] >= options.min_area]
    selected = order[:1] if options.keep == "largest" else order
    renumber = np.zeros(count + 1, np.int32)
    renumber[selected] = np.arange(1, len(selected) + 1)
    sums = np.bincount(labels.ravel(), weights=np.where(mask, values, 0.0).ravel(), minlength=count + 1)
    slices = ndimage.find_objects(labels)
    return Regions(
        labels=renumber[labels],
        boxes=[_box(*slices[label - 1]) for label in selected],
        areas=[int(sizes[label]) for label in selected],
        scores=[float(sums[label] / sizes[label]) for label in selected],
    )


def _box(rows: slice, columns: slice) -> list[int]:
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]


def _ndimage() -> Any:
    """Return ``scipy.ndimage``, an optional dependency."""
    try:
        import scipy.ndimage
    except ImportError:
        raise M2IBError("regions of a heatmap need scipy: pip install 'm2ib_lightning[evaluate]'") from None
    return scipy.ndimage
