"""From a heatmap to regions: a mask, its connected parts, their boxes.

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
"""A map whose values differ by less, relative to the largest, is blank: the rest is rounding."""

_FADED = 1e-6
"""A map is blank, too, when smoothing leaves this share of its contrast: the rest is where the Gaussian is cut off."""


@dataclass(frozen=True)
class RegionOptions:
    """How a heatmap is cut.

    Attributes:
        threshold: ``otsu``, ``two_means``, ``fixed`` (a share of the way from lowest to highest) or ``energy`` (the
            highest pixels that hold a fraction of the positive mass); see ``m2ib_lightning.results.thresholds``.
        value: the share or the fraction, above 0 and at most 1; the other two don't use it.
        smooth: standard deviation, in pixels, of the Gaussian that the map is smoothed with first; 0 for none.
        connectivity: 4 (pixels that share a side are one part) or 8 (or a corner).
        keep: ``all`` parts, or the ``largest`` alone.
        min_area: parts with fewer pixels are dropped.

    Raises:
        M2IBError: if one of them is not of these.

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
            known = ", ".join(THRESHOLDS)
            raise M2IBError(
                f"threshold={self.threshold!r} is unknown.{nearest(str(self.threshold), THRESHOLDS)} There is {known}"
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
    """The high parts of a heatmap, largest first; of equally large ones, that which comes first in reading order.

    Attributes:
        labels: (H, W) int32: 0 outside, n in the n-th part.
        boxes: of each part [x, y, width, height] in whole pixels, as COCO has them: x and y of its first pixel.
        areas: of each part, in pixels.
        scores: the mean of the heatmap (as given, not smoothed) in each part.
    """

    labels: NDArray[np.int32]
    boxes: list[list[int]]
    areas: list[int]
    scores: list[float]

    @property
    def mask(self) -> Mask:
        """(H, W): all parts together."""
        return self.labels > 0

    @property
    def components(self) -> list[Mask]:
        """(H, W) each: part by part."""
        return [self.labels == number for number in range(1, len(self.areas) + 1)]


def segment(heatmap: ArrayLike, options: RegionOptions | None = None) -> Regions:
    """Cut a heatmap into regions.

    Args:
        heatmap: (H, W), min-max or raw; NaN where the model saw nothing, which is outside and counts for nothing.
        options: None for the defaults.

    Returns:
        The regions; none where the map is blank (all values equal, or all NaN).

    Raises:
        M2IBError: if that is no map of finite numbers, or scipy is missing.

    >>> regions = segment([[0.0, 0.0, 0.0, 0.9], [1.0, 0.8, 0.0, 0.0]])
    >>> regions.boxes, regions.areas
    ([[0, 1, 2, 1], [3, 0, 1, 1]], [2, 1])
    """
    options = options or RegionOptions()
    values = _checked(heatmap)
    return _parts(_high(values, options), values, options)


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


def _high(values: Values, options: RegionOptions) -> Mask:
    """(H, W): above the threshold."""
    mask, seen = np.zeros(values.shape, np.bool_), ~np.isnan(values)
    if _blank(values[seen]):
        return mask
    inside = _smoothed(values, seen, options.smooth)[seen]
    if np.ptp(inside) > _FADED * np.ptp(values[seen]):
        takes = (options.value,) if options.threshold in TAKES_A_VALUE else ()
        mask[seen] = THRESHOLDS[options.threshold](inside, *takes)
    return mask


def _blank(values: Values) -> bool:
    return not values.size or bool(values.max() - values.min() <= _FLAT * np.abs(values).max())


def _smoothed(values: Values, seen: Mask, sigma: float) -> Values:
    """A Gaussian mean of the pixels that were seen."""
    if not sigma:
        return values
    smooth = _ndimage().gaussian_filter
    weight = smooth(seen.astype(np.float64), sigma)
    total = smooth(np.where(seen, values, 0.0), sigma)
    return np.divide(total, weight, out=np.full_like(values, np.nan), where=seen)


def _parts(mask: Mask, values: Values, options: RegionOptions) -> Regions:
    """The connected parts of a mask that the options keep."""
    ndimage = _ndimage()
    found, count = ndimage.label(mask, ndimage.generate_binary_structure(2, 1 if options.connectivity == 4 else 2))
    sizes = np.bincount(found.ravel(), minlength=count + 1)
    order = [int(label) for label in np.argsort(-sizes[1:], kind="stable") + 1 if sizes[label] >= options.min_area]
    kept = order[:1] if options.keep == "largest" else order
    renumber = np.zeros(count + 1, np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    sums = np.bincount(found.ravel(), weights=np.where(mask, values, 0.0).ravel(), minlength=count + 1)
    slices = ndimage.find_objects(found)
    return Regions(
        labels=renumber[found],
        boxes=[_box(*slices[label - 1]) for label in kept],
        areas=[int(sizes[label]) for label in kept],
        scores=[float(sums[label] / sizes[label]) for label in kept],
    )


def _box(rows: slice, columns: slice) -> list[int]:
    return [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]


def _ndimage() -> Any:
    """``scipy.ndimage``."""
    try:
        import scipy.ndimage
    except ImportError:
        raise M2IBError("regions of a heatmap need scipy: pip install 'm2ib_lightning[evaluate]'") from None
    return scipy.ndimage
