"""Scores of the maps of a caption's parts."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from m2ib_lightning.metrics.part_scores import part_scores
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.truth import NamedPart, RawTruth, read_truth
from m2ib_lightning.pairs.units.unit import Unit
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from m2ib_lightning.results.unit_maps import UnitMaps

CAPTION = "a red fox and an owl"
LEFT, RIGHT = np.zeros((4, 8), bool), np.zeros((4, 8), bool)
LEFT[:, :4] = RIGHT[:, 4:] = True


def result(units: list[tuple[str, list[float]]], whole: list[float]) -> Attribution:
    """A result whose maps have two patches, left and right; the fox is on the left, the owl on the right."""
    spans = [Unit.of(CAPTION, CAPTION.index(text), CAPTION.index(text) + len(text)) for text, _ in units]
    truth = read_truth(RawTruth(parts=[NamedPart(2, 9, LEFT), NamedPart(17, 20, RIGHT)]), (8, 4))
    pair = Pair("k", "k", "", CAPTION, image_size=(8, 4), crop=(0, 0, 8, 4), truth=truth, units=spans)
    maps = np.array([saliency for _, saliency in units], np.float32).reshape(-1, 1, 2)
    found = UnitMaps(maps, np.zeros(len(units), np.float32)) if units else None
    return Attribution(pair, 0.5, TowerAttribution(np.array([whole], np.float32)), units=found)


def test_each_part_is_scored_by_its_own_unit() -> None:
    right = part_scores(result([("red fox", [1, 0]), ("owl", [-1, 1])], [9, 9]))
    assert right["part_pointing"] == right["part_right"] == 1
    assert right["part_mass"] > 0.8  # the map is enlarged bilinearly
    wrong = part_scores(result([("owl", [1, 0]), ("fox", [0, 1])], [9, 9]))
    assert wrong["part_pointing"] == wrong["part_right"] == 0
    swapped = part_scores(result([("owl", [0, 1]), ("fox", [1, 0])], [9, 9]))
    assert wrong["part_mass"] == pytest.approx(1 - swapped["part_mass"])


def test_without_units_the_map_of_the_caption_stands_for_all() -> None:
    scores = part_scores(result([], [1, 0]))
    assert (scores["part_mass"], scores["part_pointing"], scores["part_right"]) == (0.5, 0.5, 0.5)
    assert scores == part_scores(result([("and", [0, 1])], [1, 0]))  # no unit of a part


def test_a_blank_map_scores_what_chance_does() -> None:
    scores = part_scores(result([], [2, 2]))
    assert (scores["part_mass"], scores["part_pointing"], scores["part_right"]) == (0.5, 0.5, 0.5)


def test_what_is_not_defined() -> None:
    found = result([], [1, 0])
    assert found.pair.truth is not None
    bare = replace(found, pair=replace(found.pair, truth=None))
    assert part_scores(bare) == {}
    one = replace(found, pair=replace(found.pair, truth=replace(found.pair.truth, parts=found.pair.truth.parts[:1])))
    assert sorted(part_scores(one)) == ["part_mass", "part_pointing"]
    unseen = replace(found, pair=replace(found.pair, crop=(0, 0, 4, 4)))  # the owl is cut away
    assert all(math.isnan(score) for score in part_scores(unseen).values())
