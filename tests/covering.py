"""Pairwise coverage: a few rows of a full product in which every pair of values still meets."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def pairwise_cover(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Select rows greedily until every pair of values that meets in some row meets in a selected one.

    >>> pairwise_cover(product("ab", "cd", "ef"))
    [('a', 'c', 'e'), ('a', 'd', 'f'), ('b', 'c', 'f'), ('b', 'd', 'e')]
    """
    pairs = {row: set(combinations(enumerate(row), 2)) for row in rows}
    missing = set().union(*pairs.values())
    selected = []
    while missing:
        best = max(pairs, key=lambda row: len(pairs[row] & missing))
        selected.append(best)
        missing -= pairs[best]
    return selected


def covered(rows: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Turn rows of hashable values into pytest parameters: a pairwise cover is fast, the other rows are slow tests."""
    rows = list(rows)
    fast = set(pairwise_cover(rows))
    return [pytest.param(*row, marks=[] if row in fast else pytest.mark.slow) for row in rows]


def covered_product(*factors: Iterable[Any]) -> list[Any]:
    """Turn the product of some factors into pytest parameters, as ``covered`` does."""
    return covered(product(*factors))
