"""Thresholds, against slow definitions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.results.thresholds import BINS, energy, fixed, otsu, two_means

MAPS = arrays(np.float64, (6, 7), elements=st.integers(-20, 20).map(lambda n: n / 4)).filter(
    lambda m: m.min() < m.max()
)


def smooth_map(seed: int, height: int = 40, width: int = 56) -> NDArray[np.float32]:
    """A map like a model's: a small grid, enlarged."""
    grid = np.random.default_rng(seed).gamma(0.5, 30.0, (5, 7)).astype(np.float32)
    return np.asarray(Image.fromarray(grid).resize((width, height), Image.Resampling.BILINEAR))


def slow_otsu(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Otsu's threshold by trying each of the 255 cuts: the variance between the means of two lists of numbers."""
    low, high = float(values.min()), float(values.max())
    bins = [min(int((float(v) - low) / (high - low) * BINS), BINS - 1) for v in values.ravel()]
    best, cut = -1.0, 0
    for k in range(BINS - 1):
        below, above = ([b for b in bins if (b > k) == side] for side in (False, True))
        if below and above:
            gap = sum(above) / len(above) - sum(below) / len(below)
            between = len(below) * len(above) * gap**2 / len(bins) ** 2
            if between > best * (1 + 1e-12):  # ties, up to rounding, take the first cut
                best, cut = between, k
    return np.array([b > cut for b in bins]).reshape(values.shape)


def slow_two_means(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Lloyd's algorithm, one number at a time."""
    numbers = [float(v) for v in values.ravel()]
    means, assigned = [min(numbers), max(numbers)], None
    while True:
        nearer = [abs(v - means[1]) < abs(v - means[0]) for v in numbers]
        if nearer == assigned:
            return np.array(nearer).reshape(values.shape)
        assigned = nearer
        groups = [[v for v, near in zip(numbers, nearer, strict=True) if near == side] for side in (False, True)]
        means = [math.fsum(group) / len(group) for group in groups]


@pytest.mark.parametrize("seed", range(3))
def test_otsu_is_the_best_of_all_cuts(seed: int) -> None:
    values = smooth_map(seed).astype(np.float64)
    np.testing.assert_array_equal(otsu(values), slow_otsu(values))


@pytest.mark.parametrize("seed", range(3))
def test_two_means_is_lloyds_algorithm(seed: int) -> None:
    values = smooth_map(seed).astype(np.float64)
    np.testing.assert_array_equal(two_means(values), slow_two_means(values))


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(MAPS)
def test_two_means_is_a_fixed_point(values: NDArray[np.float64]) -> None:
    mask = two_means(values)
    low, high = values[~mask].mean(), values[mask].mean()
    assert values[~mask].max() <= (low + high) / 2 + 1e-9  # a tie may fall either way by rounding of the means
    assert values[mask].min() >= (low + high) / 2 - 1e-9


def test_a_value_midway_between_the_means_is_low() -> None:
    np.testing.assert_array_equal(two_means(np.array([0.0, 4.0, 5.0, 5.0, 8.0])), [False, False, True, True, True])


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(MAPS, st.floats(0.01, 1))
def test_energy_is_the_smallest_level_set_that_holds_the_mass(values: NDArray[np.float64], fraction: float) -> None:
    mask = energy(values, fraction)
    mass, wanted = np.clip(values, 0, None), fraction * np.clip(values, 0, None).sum()
    if not mass.any():
        assert not mask.any()
        return
    assert mass[mask].sum() >= wanted - 1e-9  # sums in another order
    assert values[mask].min() > values[~mask].max(initial=0)  # a level set of positive values
    assert mass[mask & (values > values[mask].min())].sum() < wanted + 1e-9  # one level less is not enough


def test_fixed_is_a_fraction_of_the_range() -> None:
    np.testing.assert_array_equal(fixed(np.array([10.0, 14.0, 15.0, 20.0]), 0.5), [False, False, True, True])
