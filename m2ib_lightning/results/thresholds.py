"""Thresholds, which decide which values of a heatmap are high.

Each function takes the values of one map: float64 of any shape, finite, not all equal. It returns a mask, a
bool array of the same shape that is True where the value is high. Every mask is a level set, so equal values fall on
the same side.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Values = NDArray[np.float64]
Threshold = Literal["fixed", "otsu", "two_means", "energy"]

BINS = 256
"""Number of bins of the histogram for Otsu's threshold."""


def fixed(values: Values, value: float = 0.5) -> Mask:
    """Return the mask of the values at or above a fraction ``value`` of the way from the lowest to the highest.

    >>> fixed(np.array([0.0, 4.0, 5.0, 10.0])).tolist()
    [False, False, True, True]
    """
    low, high = values.min(), values.max()
    return (values - low) / (high - low) >= value


def otsu(values: Values) -> Mask:
    r"""Return the mask of the values above the cut with the largest variance between the classes (Otsu, 1979).

    .. math::
        \sigma_B^2(k) = \omega_0(k) \, \omega_1(k) \, (\mu_1(k) - \mu_0(k))^2

    The histogram has 256 bins of equal width from the lowest value to the highest. A bin's value is its middle.
    Class 0 has the bins up to k and class 1 the bins above it. The classes have shares omega and means mu. A tie takes
    the first k.

    >>> otsu(np.array([0.0, 0.1, 0.2, 0.9, 1.0])).tolist()
    [False, False, False, True, True]
    """
    low, high = values.min(), values.max()
    bins = np.minimum(((values - low) / (high - low) * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins.ravel(), minlength=BINS).astype(np.float64)
    below, sums = np.cumsum(counts), np.cumsum(counts * np.arange(BINS))
    above = below[-1] - below
    between = np.zeros(BINS)
    cut = above > 0  # `below` is never 0: the lowest value is in bin 0
    difference = (sums[-1] - sums[cut]) / above[cut] - sums[cut] / below[cut]
    between[cut] = below[cut] * above[cut] * difference**2
    return bins > between.argmax()


def two_means(values: Values) -> Mask:
    r"""Return the mask of the upper class of two-means, which starts from the lowest and the highest value.

    A value belongs to the nearer mean, so the cut is :math:`t = (\mu_0 + \mu_1) / 2` of its own classes. This is the
    iterative selection of Ridler and Calvard (1978). A value midway between the means belongs to the lower class.

    >>> two_means(np.array([0.0, 1.0, 2.0, 10.0])).tolist()
    [False, False, False, True]
    """
    ordered = np.sort(values, axis=None)
    sums = np.cumsum(ordered)
    cut, low = (ordered[0] + ordered[-1]) / 2, 0
    for _ in range(ordered.size):  # the cuts only rise or only fall, so the loop always breaks
        below = int(np.searchsorted(ordered, cut, side="right"))
        if below == low:
            break
        low = below
        cut = (sums[low - 1] / low + (sums[-1] - sums[low - 1]) / (ordered.size - low)) / 2
    return values > cut


def energy(values: Values, value: float = 0.5) -> Mask:
    r"""Return the mask of the smallest level set that holds a fraction ``value`` (f) of the positive mass.

    .. math::
        \{p : a_p \ge t\}, \quad t = \max \Big\{ t > 0 : \sum_{a_p \ge t} a_p \ge f \sum_p \max(a_p, 0) \Big\}

    The mask is all False if no value is positive.

    >>> energy(np.array([4.0, 3.0, 2.0, 1.0, -9.0])).tolist()
    [True, True, False, False, False]
    """
    positive = np.sort(values[values > 0])[::-1]
    if not positive.size:
        return np.zeros(values.shape, np.bool_)
    mass = np.cumsum(positive)
    lowest = int(np.searchsorted(mass, value * mass[-1]))  # index of the lowest value in the set
    return values >= positive[lowest]


THRESHOLDS: dict[str, Callable[..., Any]] = {
    "fixed": fixed,
    "otsu": otsu,
    "two_means": two_means,
    "energy": energy,
}
"""The threshold functions by name."""

TAKES_A_VALUE = ("fixed", "energy")
"""Names of the threshold functions with a ``value`` argument."""
