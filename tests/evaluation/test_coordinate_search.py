"""The coordinate search: it finds the best of a score, tries nothing twice, and ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest

from m2ib_lightning.evaluation.tuning.coordinate_search import CoordinateSearch, Grid, layers_to_try
from m2ib_lightning.m2ib.settings import TowerSettings

GRID = Grid((-1, 2, 4, 7), (0.03, 0.1, 0.3, 1.0), ("element", "token"), ("unit", "data"))
START = TowerSettings(layer=7)
PRESET = TowerSettings(layer=3, beta=0.2, granularity="token", sigma=0.5)

Score = Callable[[TowerSettings], float]


def run(search: CoordinateSearch, score: Score) -> list[TowerSettings]:
    """Every setting that the search asks for, in order."""
    asked = []
    while stage := search.next_settings():
        asked += stage
        search.tell({settings: score(settings) for settings in stage})
    return asked


def separable(settings: TowerSettings) -> float:
    assert settings.layer is not None
    return -abs(settings.layer - 2) - abs(math.log(settings.beta / 0.3)) + (settings.prior == "data")


def test_the_best_of_a_separable_score_is_found_from_any_start() -> None:
    for start in itertools.product(GRID.layer, GRID.beta):
        search = CoordinateSearch(GRID, [replace(START, layer=start[0], beta=start[1])], 100)
        asked = run(search, separable)
        assert search.best == TowerSettings(layer=2, beta=0.3, prior="data")
        assert len(asked) == len(set(asked)) == len(search.scores) < 25  # of 64


def test_a_later_round_corrects_the_order_of_the_stages() -> None:
    """Layer 4 is the best only with token gates, which are tried after the layers."""

    def coupled(settings: TowerSettings) -> float:
        token = settings.granularity == "token"
        return token * (3.0 if settings.layer == 4 else 1.0)

    search = CoordinateSearch(GRID, [START], 100)
    run(search, coupled)
    assert (search.best.layer, search.best.granularity) == (4, "token")


def test_the_starts_come_first_once_and_keep_keys_that_are_not_searched() -> None:
    search = CoordinateSearch(GRID, [PRESET, START, PRESET], 100)
    assert search.next_settings() == [PRESET, START]
    search.tell({PRESET: 1.0, START: 0.0})
    assert {settings.sigma for settings in search.next_settings()} == {0.5}


@pytest.mark.parametrize("score", [lambda settings: 0.0, lambda settings: math.nan])
def test_without_a_difference_the_first_start_stays(score: Score) -> None:
    search = CoordinateSearch(GRID, [PRESET, START], 100)
    run(search, score)
    assert search.best == PRESET


def test_settings_without_a_score_are_never_the_best() -> None:
    search = CoordinateSearch(GRID, [PRESET], 100)
    run(search, lambda settings: 1.0 if settings.layer == 4 else math.nan)
    assert search.best.layer == 4


@pytest.mark.parametrize("budget", [1, 2, 5, 11])
def test_the_budget_is_kept(budget: int) -> None:
    assert len(run(CoordinateSearch(GRID, [PRESET, START], budget), separable)) == budget


def test_a_grid_of_one_value_per_key_tries_the_start_alone() -> None:
    grid = Grid((7,), (0.1,), ("element",), ("unit",))
    assert run(CoordinateSearch(grid, [START], 100), separable) == [START]


@pytest.mark.parametrize(("deepest", "count"), [(0, 1), (-1, 6), (2, 6), (10, 6), (22, 6), (38, 3)])
def test_layers_are_spread_from_the_first_to_the_deepest(deepest: int, count: int) -> None:
    layers = layers_to_try(deepest, count, [])
    assert layers[0] == -1
    assert layers[-1] == (deepest if count > 1 else -1)
    assert len(layers) == min(count, deepest + 2)
    gaps = [after - before for before, after in itertools.pairwise(layers)]
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert 0 in layers_to_try(deepest, count, [0])
