"""The choice of one tower: found settings replace the present ones if they are better on pairs that took no part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from m2ib_lightning.config import Modality
from m2ib_lightning.evaluation.bootstrap import FEWEST, Estimate, Resamples, estimate_means
from m2ib_lightning.evaluation.tuning.objectives import Measures
from m2ib_lightning.evaluation.tuning.tower_search import Found, mean
from m2ib_lightning.m2ib.settings import TowerSettings
from m2ib_lightning.pairs.pair import Pair

PRESENT, PUBLISHED, BEST = "present preset", "published", "best found"
"""Names of the settings that are compared."""


@dataclass(frozen=True)
class Choice:
    """The settings that are recommended for one tower.

    Attributes:
        modality: the tower.
        found: outcome of the search.
        compared: settings that were compared, by name.
        chosen: the recommended settings.
        reason: why they were chosen.
        scores: means of the objective on the pairs of the comparison, by name.
        differences: mean differences from the present preset, by name.
        details: means of the objective's further measures, by name.
    """

    modality: Modality
    found: Found
    compared: dict[str, TowerSettings]
    chosen: TowerSettings
    reason: str
    scores: dict[str, Estimate] = field(default_factory=dict)
    differences: dict[str, Estimate] = field(default_factory=dict)
    details: dict[str, dict[str, float]] = field(default_factory=dict)


def choose(
    modality: Modality,
    found: Found,
    compared: dict[str, TowerSettings],
    measures: Mapping[str, Measures],
    pairs: Sequence[Pair],
    *,
    resamples: int,
    seed: int,
) -> Choice:
    """Compare settings pair by pair, and choose between the present preset and the best that the search found.

    The found settings are chosen if they are better by a mean difference whose 95 % interval excludes 0 (bootstrap over
    pictures, at least 20 of them).

    Args:
        modality: the tower.
        found: outcome of the search.
        compared: settings to compare, by name, with those named ``PRESENT`` and ``BEST``.
        measures: measures of a trial of each of them, by name.
        pairs: the pairs of the measures.
        resamples: number of bootstrap resamples.
        seed: seed of the resamples.
    """
    objective = found.objective
    names = list(compared)
    values = np.stack([objective.score(measures[name]) for name in names], axis=1)  # (N, names)
    draws = Resamples(np.array([pair.image for pair in pairs], dtype=object), resamples, seed)
    scores = estimate_means(values, names, draws)
    others = [name for name in names if compared[name] != compared[PRESENT]]
    present = values[:, [names.index(PRESENT)]]
    paired = values[:, [names.index(name) for name in others]] - present
    differences = estimate_means(paired, others, draws) if others else {}
    details = {
        name: {detail: mean(measures[name][detail]) for detail in objective.details if detail in measures[name]}
        for name in names
    }
    better, reason = _verdict(found, compared, differences.get(BEST), len(pairs))
    chosen = compared[BEST if better else PRESENT]
    return Choice(modality, found, compared, chosen, reason, scores, differences, details)


def _verdict(
    found: Found, compared: dict[str, TowerSettings], difference: Estimate | None, pairs: int
) -> tuple[bool, str]:
    """Return whether the best settings are chosen, and why or why not."""
    if not found.enough:
        why = f"only {found.scored} of the pairs of the search have a score ({found.objective.why_undefined})"
        return False, f"nothing was searched: {why}. The present preset stays"
    if difference is None:
        return False, "the search found nothing better than the present preset, which stays"
    if difference.pictures < FEWEST:
        return False, (
            f"the present preset stays: {difference.pictures} pictures with a score are too few to compare settings on "
            f"(at least {FEWEST}). Give more pairs, or a larger tune.confirmation_pairs"
        )
    interval = f"{difference.mean:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
    if difference.excludes_zero and difference.mean > 0:
        return True, f"better than the present preset by {interval} on {difference.pairs} other pairs"
    return False, (
        f"the present preset stays: the best settings found differ from it by {interval} on {difference.pairs} other "
        "pairs, which is not better beyond chance"
    )
