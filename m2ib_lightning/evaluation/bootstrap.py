"""Means over pairs with 95 % intervals: percentiles of the bootstrap over pictures (Efron, 1979).

A resample draws pictures with replacement, each with all of its captions, methods and measures.

Legend: N pairs, R resamples, M methods.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 20
"""Smallest number of pictures for which a difference from the baseline is marked."""

_LEVEL = (2.5, 97.5)
_NUMBERS_AT_A_TIME = 10_000_000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over pairs with its 95 % interval.

    Attributes:
        mean: mean of the pairs whose value is defined.
        low: lower end of the interval.
        high: upper end of the interval.
        pairs: number of pairs whose value is defined.
        left_out: number of pairs whose value is not defined (an empty mask, for instance).
        pictures: number of pictures of the defined pairs.
    """

    mean: float
    low: float
    high: float
    pairs: int
    left_out: int = 0
    pictures: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval; False for few pictures, whose bootstrap is too narrow."""
        return self.pictures >= FEWEST and (self.low > 0 or self.high < 0)

    def to_dict(self) -> dict[str, float]:
        """Return the numbers for JSON."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        return numbers | {"pairs": self.pairs, "left_out": self.left_out, "pictures": self.pictures}


class Resamples:
    """The bootstrap's resamples of N pairs.

    Args:
        pictures: (N,), name of each pair's picture.
        count: number R of resamples.
        seed: seed of the draws; the same pairs get the same resamples for every measure.

    Attributes:
        picture: (N,), index of each pair's picture.
        pictures: number of pictures.
    """

    def __init__(self, pictures: NDArray[np.object_], count: int, seed: int) -> None:
        names, self.picture = np.unique(pictures.astype(str), return_inverse=True)
        self.pictures = len(names)
        self._count, self._seed = count, seed

    def weights(self) -> Iterator[Floats]:
        """Yield how often each pair is drawn in each resample, (R, N), in chunks of rows."""
        rng = np.random.default_rng(self._seed)
        step = max(1, _NUMBERS_AT_A_TIME // max(len(self.picture), 1))
        for first in range(0, self._count, step):
            size = min(step, self._count - first)
            drawn = rng.multinomial(self.pictures, np.full(self.pictures, 1 / self.pictures), size=size)
            yield drawn[:, self.picture].astype(np.float64)


def estimate_means(values: Floats, names: list[str], resamples: Resamples) -> dict[str, Estimate]:
    """Estimate the mean of each method.

    Args:
        values: (N, M), NaN where a value is not defined.
        names: names of the M methods.
        resamples: resamples of the N pairs.
    """
    defined = ~np.isnan(values)
    filled = np.where(defined, values, 0.0)
    means = np.concatenate([_divide(w @ filled, w @ defined) for w in resamples.weights()])
    estimates = {}
    for column, name in enumerate(names):
        pairs = int(defined[:, column].sum())
        mean = float(filled[:, column].sum() / pairs) if pairs else float("nan")
        resampled = means[~np.isnan(means[:, column]), column]
        low, high = np.percentile(resampled, _LEVEL) if len(resampled) else (float("nan"),) * 2
        pictures = len(np.unique(resamples.picture[defined[:, column]]))
        estimates[name] = Estimate(mean, float(low), float(high), pairs, len(values) - pairs, pictures)
    return estimates


def estimate_auc(matched: Floats, shuffled: Floats, resamples: Resamples) -> Estimate:
    """Estimate the ``matched_auc`` of the losses of N pairs.

    Args:
        matched: (N,), losses of the images with their own captions.
        shuffled: (N,), losses of the same images with other captions.
        resamples: resamples of the N pairs.
    """
    mean = weighted_auc(matched, shuffled, np.ones((1, len(matched))))
    areas = np.concatenate([weighted_auc(matched, shuffled, w) for w in resamples.weights()])
    low, high = np.percentile(areas, _LEVEL)
    return Estimate(float(mean[0]), float(low), float(high), len(matched), 0, resamples.pictures)


def weighted_auc(matched: Floats, shuffled: Floats, weights: Floats) -> Floats:
    r"""Compute the ``matched_auc`` of pairs that are counted :math:`w_i` times each.

    .. math::
        \sum_{i, j} w_i w_j \left( 1[l_i < l'_j] + \tfrac12 1[l_i = l'_j] \right) \Big/ \Big( \sum_i w_i \Big)^2

    This is the probability that a matched loss is lower than a shuffled one, ties counted half. The losses are sorted
    once; cumulative weights then give the weight of all lower and of all equal losses.

    Args:
        matched: (N,), losses l.
        shuffled: (N,), losses l' of the same pairs.
        weights: (R, N), how often each pair counts in each resample.

    Returns:
        The areas (R,), from 0 to 1.

    >>> weighted_auc(np.array([0.1, 0.2]), np.array([0.2, 0.3]), np.array([[1.0, 1.0], [0.0, 2.0]])).tolist()
    [0.875, 1.0]
    """
    order = np.argsort(shuffled)
    cumulative = np.concatenate([np.zeros((len(weights), 1)), weights[:, order].cumsum(1)], axis=1)  # (R, N + 1)
    below = cumulative[:, np.searchsorted(shuffled, matched, side="left", sorter=order)]
    at_most = cumulative[:, np.searchsorted(shuffled, matched, side="right", sorter=order)]
    total = cumulative[:, -1]
    wins = total[:, None] - (below + at_most) / 2
    return np.asarray((weights * wins).sum(1) / total**2)


def _divide(total: Floats, count: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)
