"""A comparison of methods by the scores of pairs: means, 95 % intervals, and paired differences.

A pair's score is the mean over its seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.bootstrap import Estimate, Resamples, estimate_auc, estimate_means
from m2ib_lightning.evaluation.measures import MEASURES


@dataclass(frozen=True)
class Comparison:
    """Mean scores of several methods, and their differences from a baseline.

    Attributes:
        methods: names of the methods, in the order of the request.
        baseline: name of the method that the others are compared with.
        estimates: means by measure, then by method.
        differences: mean differences by measure, then by method: a method's score minus the baseline's, on the pairs
            that have both.
        cascade: steps of the weight randomisation by tower, then by method. A step is (percentage of random stages,
            correlation); steps are in rising order.
        curves: mean curves of insertion and deletion by measure, then by method. A point is (percentage of patches or
            words, cosine); points are in rising order.
    """

    methods: list[str]
    baseline: str
    estimates: dict[str, dict[str, Estimate]]
    differences: dict[str, dict[str, Estimate]]
    cascade: dict[str, dict[str, list[tuple[int, Estimate]]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[tuple[int, Estimate]]]] = field(default_factory=dict)

    def best(self, measure: str) -> set[str]:
        """Return the methods with the best mean of a measure; none for a measure without a better direction."""
        better = MEASURES[measure].better
        if better is None:
            return set()
        estimates = self.estimates.get(measure, {})
        means = {method: estimate.mean for method, estimate in estimates.items() if not np.isnan(estimate.mean)}
        score = {"higher": lambda mean: -mean, "lower": lambda mean: mean, "zero": abs}[better]
        best_score = min((score(mean) for mean in means.values()), default=None)
        return {method for method, mean in means.items() if score(mean) == best_score}

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as a dictionary for JSON, by method, then by measure."""
        return {
            method: {
                measure: estimates[method].to_dict() | self._difference(measure, method)
                for measure, estimates in self.estimates.items()
                if method in estimates
            }
            for method in self.methods
        }

    def _difference(self, measure: str, method: str) -> dict[str, Any]:
        difference = self.differences.get(measure, {}).get(method)
        return {} if difference is None else {f"minus_{self.baseline}": difference.to_dict()}


def compare(scores: Any, methods: Sequence[str], baseline: str, *, resamples: int = 1000, seed: int = 0) -> Comparison:
    """Compare methods by the scores of their maps.

    Args:
        scores: data frame as ``load_scores`` returns it.
        methods: names of the methods to compare, in order.
        baseline: name of the method that the others are compared with; there are no differences if it has no scores.
        resamples: number of resamples of the bootstrap.
        seed: seed of the resamples.

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
        draws = Resamples(pictures[table.index].to_numpy(), resamples, seed)
        means = estimate_means(table.to_numpy(), list(table.columns), draws)
        head, _, percent = measure.rpartition("_")
        if head.endswith("_randomised"):
            tower = cascade.setdefault(head.removesuffix("_randomised"), {})
            for method, estimate in means.items():
                tower.setdefault(method, []).append((int(percent), estimate))
        name = head if head.endswith("_randomised") and percent == "100" else measure
        if name in MEASURES:
            estimates[name] = means
            others = [method for method in table.columns if method != baseline] if baseline in table.columns else []
            if others:
                paired = table[others].to_numpy() - table[[baseline]].to_numpy()
                differences[name] = estimate_means(paired, others, draws)
    if "loss_matched" in tables and "loss_shuffled" in tables:
        estimates["matched_auc"] = _aucs(tables["loss_matched"], tables["loss_shuffled"], pictures, resamples, seed)
    return Comparison(
        list(methods),
        baseline,
        {measure: _in_order(estimates[measure], methods) for measure in MEASURES if measure in estimates},
        differences,
        {tower: {m: sorted(stages[m]) for m in methods if m in stages} for tower, stages in cascade.items()},
    )


def _in_order(estimates: dict[str, Estimate], methods: Sequence[str]) -> dict[str, Estimate]:
    return {method: estimates[method] for method in methods if method in estimates}


def _by_pair(scores: Any) -> dict[str, Any]:
    """Return a data frame for each measure: pairs by methods, NaN where a pair has no score or an undefined one."""
    tables = {}
    for measure, part in scores.groupby("measure", sort=True):
        means = part.groupby(["key", "method"], sort=False)["value"].mean()
        tables[str(measure)] = means.unstack("method")
    return tables


def _pictures(scores: Any) -> Any:
    """Return the picture of each key; a pair of unknown picture counts as a picture by itself."""
    pictures = scores["key"] if "image" not in scores else scores["image"].fillna(scores["key"])
    return pictures.set_axis(scores["key"]).loc[~scores["key"].duplicated().to_numpy()]


def _aucs(matched: Any, shuffled: Any, pictures: Any, resamples: int, seed: int) -> dict[str, Estimate]:
    """Estimate the AUC of each method's losses, on the pairs that have both."""
    estimates = {}
    for name in matched.columns.intersection(shuffled.columns):
        losses = matched[[name]].join(shuffled[[name]], how="inner", lsuffix="_m", rsuffix="_s").dropna()
        if len(losses):
            draws = Resamples(pictures[losses.index].to_numpy(), resamples, seed)
            matched_losses, shuffled_losses = losses.to_numpy().T
            estimates[name] = estimate_auc(matched_losses, shuffled_losses, draws)
    return estimates
