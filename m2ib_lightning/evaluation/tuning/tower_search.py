"""The search for the settings of both towers: the towers are independent, so one trial tries a setting of each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.tuning.coordinate_search import CoordinateSearch
from m2ib_lightning.evaluation.tuning.objectives import FEWEST_SHARE, Floats, Objective
from m2ib_lightning.evaluation.tuning.trials import Trials
from m2ib_lightning.m2ib.settings import BottleneckSettings, TowerSettings

_SCORED_SHARE = 0.9
"""Settings must score this share of the pairs that the first trial scores, or they are not chosen."""


@dataclass(frozen=True)
class Tried:
    """Mean scores of a setting on the pairs of the search.

    Attributes:
        settings: the setting.
        score: mean of the objective; NaN if too few pairs have a score.
        details: means of the objective's further measures.
    """

    settings: TowerSettings
    score: float
    details: dict[str, float]


@dataclass(frozen=True)
class Found:
    """The outcome of the search for one tower.

    Attributes:
        objective: what the settings were chosen by.
        tried: each setting that was tried, in order; the first is the start.
        best: the setting with the highest score; the start if nothing was searched.
        scored: number of pairs with a score in the first trial.
        enough: whether that is enough pairs; else nothing was searched.
    """

    objective: Objective
    tried: list[Tried]
    best: TowerSettings
    scored: int
    enough: bool


class TowerSearch:
    """The search for one tower, and what it has tried.

    Args:
        search: the search.
        objective: what the settings are chosen by.
    """

    def __init__(self, search: CoordinateSearch, objective: Objective) -> None:
        self.search = search
        self.objective = objective
        self.tried: dict[TowerSettings, Tried] = {}
        self.scored: int | None = None
        self.enough = True

    def asked(self) -> list[TowerSettings]:
        """Return the settings to try next; none at the end, or if too few pairs have a score."""
        return self.search.next_settings() if self.enough else []

    def take(self, settings: TowerSettings, measures: dict[str, Floats], pairs: int) -> None:
        """Take the measures of a trial of some settings on a number of pairs."""
        values = self.objective.score(measures)
        defined = int((~np.isnan(values)).sum())
        if self.scored is None:
            self.scored, self.enough = defined, defined > 0 and defined >= FEWEST_SHARE * pairs
        score = mean(values) if defined >= _SCORED_SHARE * max(self.scored, 1) else math.nan
        details = {name: mean(measures[name]) for name in self.objective.details if name in measures}
        self.tried.setdefault(settings, Tried(settings, score, details))

    def found(self) -> Found:
        """Return the outcome."""
        best = self.search.best if self.enough else self.search.starts[0]
        return Found(self.objective, list(self.tried.values()), best, self.scored or 0, self.enough)


def search_towers(
    trials: Trials,
    base: BottleneckSettings,
    searches: dict[Modality, TowerSearch],
    report: Callable[[int, dict[Modality, Tried]], None] = lambda number, tried: None,
) -> dict[Modality, Found]:
    """Run trials until both searches end.

    Args:
        trials: the trials, inside ``at_work``.
        base: settings that both towers share; those of the towers are replaced.
        searches: the search of each tower.
        report: function that is called after each trial, with its number and what it tried. A tower whose search has
            ended earlier keeps its best settings and tries nothing.

    Returns:
        The outcome of each tower.

    Raises:
        M2IBError: if the first trial can't explain any pair.
    """
    curves = any(not search.objective.needs_truth for search in searches.values())
    number = 0
    while any((asked := {m: searches[m].asked() for m in MODALITIES}).values()):
        for index in range(max(map(len, asked.values()))):
            towers = {m: asked[m][index] if index < len(asked[m]) else searches[m].search.best for m in MODALITIES}
            measures = trials.run(replace(base, image=towers["image"], text=towers["text"]), curves=curves)
            if number == 0 and len(trials.failures) == len(trials.pairs):
                raise M2IBError(f"no pair could be explained: {next(iter(trials.failures.values()))}")
            for m in MODALITIES:
                searches[m].take(towers[m], measures, len(trials.pairs))
            number += 1
            report(number, {m: searches[m].tried[asked[m][index]] for m in MODALITIES if index < len(asked[m])})
        for m in MODALITIES:
            searches[m].search.tell({settings: searches[m].tried[settings].score for settings in asked[m]})
    return {m: searches[m].found() for m in MODALITIES}


def mean(values: Floats) -> float:
    """Return the mean of the values that are defined; NaN if none is."""
    return math.nan if np.isnan(values).all() else float(np.nanmean(values))
