"""From the scores of pairs to a comparison of methods: means, 95 % intervals, and differences pair by pair.

A pair's score is the mean over its seeds. Intervals are percentiles of the bootstrap over pictures (Efron, 1979): they
are drawn again with replacement, each with all of its captions, methods and measures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.measures import MEASURES

FEWEST = 20
"""Pictures that a difference needs to be called one."""

_LEVEL = (2.5, 97.5)
_NUMBERS_AT_A_TIME = 10_000_000


@dataclass(frozen=True)
class Estimate:
    """A mean over pairs.

    Attributes:
        mean: of the pairs where it is defined.
        low: of the 95 % interval.
        high: likewise.
        pairs: how many there are.
        left_out: how many more where it was tried and is not defined (an empty mask, for instance).
        pictures: of how many pictures they are.
    """

    mean: float
    low: float
    high: float
    pairs: int
    left_out: int = 0
    pictures: int = 0

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval; of few pictures, whose bootstrap is too narrow, nothing is said."""
        return self.pictures >= FEWEST and (self.low > 0 or self.high < 0)

    def to_dict(self) -> dict[str, float]:
        """For JSON."""
        numbers = {"mean": self.mean, "low": self.low, "high": self.high}
        return numbers | {"pairs": self.pairs, "left_out": self.left_out, "pictures": self.pictures}


@dataclass(frozen=True)
class Comparison:
    """Methods side by side.

    Attributes:
        methods: in the order asked for.
        baseline: which one the others are compared with.
        estimates: by measure, then by method.
        differences: likewise, of each other method less the baseline, on the pairs that both have.
        cascade: by tower, then by method: (per cent of the weights' stages that are random, correlation) in order.
    """

    methods: list[str]
    baseline: str
    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    cascade: dict[str, dict[str, list[tuple[int, Estimate]]]] = field(default_factory=dict)

    def best(self, measure: str) -> set[str]:
        """The methods with the best mean; none where neither way is better."""
        found = self.estimates.get(measure, {})
        better = MEASURES[measure].better
        if better is None or not found:
            return set()
        means = {method: estimate.mean for method, estimate in found.items() if not np.isnan(estimate.mean)}
        score = {"higher": lambda mean: -mean, "lower": lambda mean: mean, "zero": abs}[better]
        least = min((score(mean) for mean in means.values()), default=None)
        return {method for method, mean in means.items() if score(mean) == least}

    def to_dict(self) -> dict[str, Any]:
        """For JSON: by method, then by measure."""
        return {
            method: {
                measure: found[method].to_dict()
                | (
                    {f"minus_{self.baseline}": self.differences[measure][method].to_dict()}
                    if method in self.differences.get(measure, {})
                    else {}
                )
                for measure, found in self.estimates.items()
                if method in found
            }
            for method in self.methods
        }


def compare(scores: Any, methods: Sequence[str], baseline: str, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare.

    Args:
        scores: as ``load_scores`` gives them.
        methods: which, in order.
        baseline: which one the others are compared with; left out where it is not among them.
        resamples: of the bootstrap.
        seed: keys them.

    Raises:
        M2IBError: if there are fewer than two resamples.
    """
    if resamples < 2:
        raise M2IBError(f"evaluate.resamples must be at least 2, got {resamples}")
    estimates: dict[str, dict[str, Estimate]] = {}
    differences: dict[str, dict[str, Estimate]] = {}
    cascade: dict[str, dict[str, list[tuple[int, Estimate]]]] = {}
    tables = _by_pair(scores)
    pictures = _pictures(scores)
    for measure, table in tables.items():
        draws = _Draws(pictures[table.index].to_numpy(), resamples, seed)
        found = _estimates(table.to_numpy(), list(table.columns), draws)
        head, _, percent = measure.rpartition("_")
        if head.endswith("_randomised"):
            tower = cascade.setdefault(head.removesuffix("_randomised"), {})
            for method, estimate in found.items():
                tower.setdefault(method, []).append((int(percent), estimate))
        name = head if head.endswith("_randomised") and percent == "100" else measure
        if name in MEASURES:
            estimates[name] = found
            others = [method for method in table.columns if method != baseline] if baseline in table.columns else []
            if others:
                less = table[others].to_numpy() - table[[baseline]].to_numpy()
                differences[name] = _estimates(less, others, draws)
    if "loss_matched" in tables and "loss_shuffled" in tables:
        estimates["matched_auc"] = _matched(tables["loss_matched"], tables["loss_shuffled"], pictures, resamples, seed)
    ordered = {measure: estimates[measure] for measure in MEASURES if measure in estimates}
    return Comparison(
        list(methods),
        baseline,
        {measure: _in_order(found, methods) for measure, found in ordered.items()},
        differences,
        {tower: {m: sorted(found[m]) for m in methods if m in found} for tower, found in cascade.items()},
    )


def _in_order(found: dict[str, Estimate], methods: Sequence[str]) -> dict[str, Estimate]:
    return {method: found[method] for method in methods if method in found}


def _by_pair(scores: Any) -> dict[str, Any]:
    """By measure: a data frame, pairs by methods, NaN where a pair has no score or one that is not defined."""
    tables = {}
    for measure, part in scores.groupby("measure", sort=True):
        means = part.groupby(["key", "method"], sort=False)["value"].mean()
        tables[str(measure)] = means.unstack("method")
    return tables


def _pictures(scores: Any) -> Any:
    """By key: the picture; one of its own where that is not known."""
    pictures = scores["key"] if "image" not in scores else scores["image"].fillna(scores["key"])
    return pictures.set_axis(scores["key"]).loc[~scores["key"].duplicated().to_numpy()]


class _Draws:
    """The resamples of a table's pairs.

    Args:
        pictures: of each pair.
        resamples: how many.
        seed: the same for every measure of these pairs.
    """

    def __init__(self, pictures: NDArray[np.object_], resamples: int, seed: int) -> None:
        names, self.picture = np.unique(pictures.astype(str), return_inverse=True)
        self.pictures = len(names)
        self._resamples, self._seed = resamples, seed

    def weights(self) -> Iterator[NDArray[np.float64]]:
        """How often each pair is drawn, (resamples, pairs) in pieces."""
        rng = np.random.default_rng(self._seed)
        piece = max(1, _NUMBERS_AT_A_TIME // max(len(self.picture), 1))
        for first in range(0, self._resamples, piece):
            size = min(piece, self._resamples - first)
            drawn = rng.multinomial(self.pictures, np.full(self.pictures, 1 / self.pictures), size=size)
            yield drawn[:, self.picture].astype(np.float64)


def _estimates(values: NDArray[np.float64], names: list[str], draws: _Draws) -> dict[str, Estimate]:
    """Of a table, pairs by methods."""
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    means = np.concatenate([_divided(w @ filled, w @ there) for w in draws.weights()])
    found = {}
    for column, name in enumerate(names):
        pairs = int(there[:, column].sum())
        mean = float(filled[:, column].sum() / pairs) if pairs else float("nan")
        drawn = means[~np.isnan(means[:, column]), column]
        low, high = np.percentile(drawn, _LEVEL) if len(drawn) else (float("nan"),) * 2
        pictures = len(np.unique(draws.picture[there[:, column]]))
        found[name] = Estimate(mean, float(low), float(high), pairs, len(values) - pairs, pictures)
    return found


def _divided(total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, total / count, np.nan)


def _matched(matched: Any, shuffled: Any, pictures: Any, resamples: int, seed: int) -> dict[str, Estimate]:
    """The AUC of each method's losses: the chance that a pair's is lower than that of a shuffled one."""
    found = {}
    for name in matched.columns:
        if name not in shuffled.columns:
            continue
        joined = matched[[name]].join(shuffled[[name]], how="inner", lsuffix="_m", rsuffix="_s").dropna()
        both = joined.to_numpy()
        if len(both) == 0:
            continue
        draws = _Draws(pictures[joined.index].to_numpy(), resamples, seed)
        wins = (both[:, :1] < both[None, :, 1]) + 0.5 * (both[:, :1] == both[None, :, 1])
        areas = np.concatenate([((w @ wins) * w).sum(1) / w.sum(1) ** 2 for w in draws.weights()])
        low, high = np.percentile(areas, _LEVEL)
        found[name] = Estimate(float(wins.mean()), float(low), float(high), len(both), 0, draws.pictures)
    return found
