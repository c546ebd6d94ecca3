"""A coordinate search for the settings of one tower: layer, then beta, then gates and prior, until nothing changes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from m2ib_lightning.m2ib.settings import TowerSettings

STAGES = (("layer",), ("beta",), ("granularity", "prior"))
"""Keys that a stage changes together, in order. A round is all stages."""


@dataclass(frozen=True)
class Grid:
    """Values that each key of a tower may take.

    Attributes:
        layer: layers, in rising order.
        beta: weights of the information.
        granularity: kinds of gates.
        prior: kinds of priors.
    """

    layer: tuple[int, ...]
    beta: tuple[float, ...]
    granularity: tuple[str, ...]
    prior: tuple[str, ...]

    def variants(self, settings: TowerSettings, keys: Sequence[str]) -> Iterator[TowerSettings]:
        """Yield the settings with every combination of values of some keys."""
        for values in product(*(getattr(self, key) for key in keys)):
            changes: dict[str, Any] = dict(zip(keys, values, strict=True))
            yield replace(settings, **changes)


class CoordinateSearch:
    """A search that asks for settings to try and is told their scores.

    Each stage varies its keys around the best settings so far. The search ends when no stage of a round has found
    better settings, or when the budget is spent. It is deterministic: of equal scores the one tried first is the best.

    Args:
        grid: values to try.
        starts: settings that are tried first; the search goes on from the best of them.
        budget: largest number of settings to try.

    Attributes:
        scores: scores of the settings tried so far, in order; NaN for settings that could not be scored.
    """

    def __init__(self, grid: Grid, starts: Sequence[TowerSettings], budget: int) -> None:
        self.grid = grid
        self.starts = list(dict.fromkeys(starts))
        self.budget = budget
        self.scores: dict[TowerSettings, float] = {}
        self._stage = 0
        self._stages_without_change = 0

    @property
    def best(self) -> TowerSettings:
        """The settings with the highest score; the first start if none has a score."""
        scored = [settings for settings, score in self.scores.items() if not math.isnan(score)]
        return max(scored, key=lambda settings: self.scores[settings], default=self.starts[0])

    def next_settings(self) -> list[TowerSettings]:
        """Return the settings to try next; none at the end of the search."""
        if not self.scores:
            return self.starts[: self.budget]
        while self._stages_without_change < len(STAGES):
            variants = self.grid.variants(self.best, STAGES[self._stage % len(STAGES)])
            untried = [settings for settings in variants if settings not in self.scores]
            untried = untried[: self.budget - len(self.scores)]
            self._stage += 1
            if untried:
                return untried
            self._stages_without_change += 1
        return []

    def tell(self, scores: Mapping[TowerSettings, float]) -> None:
        """Take the scores of the settings that ``next_settings`` returned."""
        before = self.best if self.scores else None  # the starts are no stage
        self.scores |= scores
        self._stages_without_change = 0 if self.best != before else self._stages_without_change + 1


def layers_to_try(deepest: int, count: int, always: Sequence[int]) -> tuple[int, ...]:
    """Return layers from -1 to the deepest, evenly spread, and the layers that are always tried.

    Args:
        deepest: deepest layer of the tower that may be cut.
        count: largest number of evenly spread layers.
        always: layers that are tried whatever the spread.

    >>> layers_to_try(10, 5, [9])
    (-1, 2, 5, 7, 9, 10)
    >>> layers_to_try(1, 5, [])
    (-1, 0, 1)
    """
    count = min(count, deepest + 2)
    spread = {-1 + round(step * (deepest + 1) / max(count - 1, 1)) for step in range(count)}
    return tuple(sorted(spread | set(always)))
