"""Segmentation: masks, their parts, what smoothing does, and bad inputs."""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.segmentation import RegionOptions, Regions, segment
from m2ib_lightning.results.thresholds import THRESHOLDS
from tests.results.test_drawing import make_result
from tests.results.test_thresholds import MAPS, smooth_map


def test_fixed_cuts_the_min_max_map() -> None:
    heatmap = make_result().image_heatmap
    np.testing.assert_array_equal(segment(heatmap, RegionOptions("fixed", 0.3)).mask, heatmap >= np.float32(0.3))


@pytest.mark.parametrize("threshold", ["fixed", "otsu", "two_means"])
def test_the_mask_is_invariant_to_scale_and_offset(threshold: Any) -> None:
    heatmap = np.round(smooth_map(3).astype(np.float64), 3)
    moved = segment(heatmap * 64 + 4, RegionOptions(threshold))
    np.testing.assert_array_equal(moved.mask, segment(heatmap, RegionOptions(threshold)).mask)


@pytest.mark.parametrize("threshold", THRESHOLDS)
@pytest.mark.parametrize(("smooth", "value"), [(0, 0.0), (3, 0.1), (5000, -3.0), (0, math.nan), (5000, 0.1)])
def test_a_blank_map_has_no_regions(threshold: Any, smooth: float, value: float) -> None:
    regions = segment(np.full((8, 9), value), RegionOptions(threshold, smooth=smooth))
    assert not regions.mask.any()
    assert regions.mask.shape == (8, 9)
    assert (regions.components, regions.boxes, regions.scores, regions.areas) == ([], [], [], [])


def test_a_map_smoothed_flat_has_no_regions() -> None:
    assert not segment(np.arange(72.0).reshape(8, 9), RegionOptions(smooth=3000)).mask.any()


@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_unseen_pixels_are_ignored(threshold: Any) -> None:
    inner = smooth_map(1).astype(np.float64)
    outer = np.full((60, 70), np.nan)
    outer[10:50, 5:61] = inner
    regions, alone = (segment(m, RegionOptions(threshold)) for m in (outer, inner))
    np.testing.assert_array_equal(regions.mask[10:50, 5:61], alone.mask)
    assert regions.mask.sum() == alone.mask.sum()
    assert regions.scores == pytest.approx(alone.scores)
    blurred = segment(outer, RegionOptions(threshold, smooth=2))
    assert blurred.mask.any()
    assert not blurred.mask[np.isnan(outer)].any()


def test_smoothing_is_a_gaussian_mean() -> None:
    heatmap = np.zeros((41, 41))
    heatmap[20, 20] = 1
    mask = segment(heatmap, RegionOptions("fixed", 0.5, smooth=4)).mask
    rows, columns = np.mgrid[-20:21, -20:21]
    np.testing.assert_array_equal(mask, np.exp(-(rows**2 + columns**2) / (2 * 4**2)) >= 0.5)


@pytest.mark.parametrize("value", [0.2, 0.4, 0.6, 0.8])
def test_smoothing_averages_over_seen_pixels(value: float) -> None:
    heatmap = np.full((22, 24), np.nan)
    heatmap[6:16, 6:18] = np.random.default_rng(0).gamma(0.5, 30.0, (10, 12))
    smooth = np.full(heatmap.shape, np.nan)
    for y, x in np.argwhere(~np.isnan(heatmap)):
        near = [(r, c) for r in range(y - 4, y + 5) for c in range(x - 4, x + 5) if not math.isnan(heatmap[r, c])]
        weights = [math.exp(-((r - y) ** 2 + (c - x) ** 2) / 2) for r, c in near]  # truncated at 4 deviations
        smooth[y, x] = sum(w * heatmap[at] for w, at in zip(weights, near, strict=True)) / sum(weights)
    wanted = (smooth - np.nanmin(smooth)) / (np.nanmax(smooth) - np.nanmin(smooth)) >= value  # False for NaN
    np.testing.assert_array_equal(segment(heatmap, RegionOptions("fixed", value, smooth=1)).mask, wanted)


def drawn(*lines: str) -> NDArray[np.float64]:
    return np.array([[float(c) if c.isdigit() else 0.0 for c in line] for line in lines])


PICTURE = drawn(
    "9..88..",
    ".9...88",
    ".......",
    "77.8...",
    "77....9",
)


def test_parts_come_largest_first_with_tight_boxes() -> None:
    regions = segment(PICTURE, RegionOptions("fixed", 0.5))
    assert regions.areas == [4, 4, 2, 1, 1]
    assert regions.boxes == [[3, 0, 4, 2], [0, 3, 2, 2], [0, 0, 2, 2], [3, 3, 1, 1], [6, 4, 1, 1]]
    assert regions.scores == [8, 7, 9, 8, 9]
    np.testing.assert_array_equal(regions.mask, PICTURE > 0)


@pytest.mark.parametrize(
    ("options", "areas"),
    [
        ({"connectivity": 4}, [4, 2, 2, 1, 1, 1, 1]),
        ({"keep": "largest"}, [4]),
        ({"min_area": 2}, [4, 4, 2]),
        ({"min_area": 5}, []),
        ({"min_area": 5, "keep": "largest"}, []),
    ],
)
def test_options_choose_the_parts(options: dict[str, Any], areas: list[int]) -> None:
    regions = segment(PICTURE, RegionOptions("fixed", 0.5, **options))
    assert regions.areas == areas
    assert regions.mask.sum() == sum(areas)


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(MAPS, st.sampled_from(sorted(THRESHOLDS)), st.sampled_from([4, 8]))
def test_parts_make_up_the_mask_and_fill_their_boxes(values: NDArray[Any], threshold: Any, connectivity: Any) -> None:
    regions = segment(values, RegionOptions(threshold, connectivity=connectivity))
    assert_consistent(regions, values)
    assert all(larger >= smaller for larger, smaller in pairwise(regions.areas))


def assert_consistent(regions: Regions, values: NDArray[Any]) -> None:
    total = np.zeros(values.shape, int)
    for part, (x, y, width, height), area, score in zip(
        regions.components, regions.boxes, regions.areas, regions.scores, strict=True
    ):
        rows, columns = np.nonzero(part)
        assert (rows.min(), columns.min()) == (y, x)
        assert (rows.max(), columns.max()) == (y + height - 1, x + width - 1)
        assert part.sum() == area
        assert values[part].mean() == pytest.approx(score)
        total += part
    np.testing.assert_array_equal(total, regions.mask)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"threshold": "otsi"},
            r"threshold='otsi' is unknown. Did you mean 'otsu'\? Thresholds: fixed, otsu, two_means",
        ),
        ({"keep": "biggest"}, "keep must be 'all' or 'largest', got 'biggest'"),
        ({"value": 0}, "value must be above 0 and at most 1, got 0"),
        ({"value": 1.5}, "value must be above 0 and at most 1, got 1.5"),
        ({"value": math.nan}, "value must be above 0 and at most 1, got nan"),
        ({"smooth": -1}, "smooth must be 0 or more pixels, got -1"),
        ({"smooth": math.inf}, "smooth must be 0 or more pixels, got inf"),
        ({"connectivity": 6}, "connectivity must be 4 .* or 8 .*, got 6"),
        ({"min_area": 0}, "min_area must be 1 pixel or more, got 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        RegionOptions(**options)


@pytest.mark.parametrize(
    ("heatmap", "message"),
    [
        (np.zeros((1, 4, 4)), r"must be \(H, W\), got shape \(1, 4, 4\): give one map"),
        (np.zeros((0, 4)), r"must be \(H, W\), got shape \(0, 4\)"),
        ([[1.0, math.inf]], "must be finite"),
        ([["a"]], "must be an array .* of numbers"),
        ([[1.0], [1.0, 2.0]], "must be an array .* of numbers"),
    ],
)
def test_bad_heatmaps_are_named(heatmap: Any, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        segment(heatmap)


def test_without_scipy_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(M2IBError, match=r"pip install 'm2ib_lightning\[evaluate\]'"):
        segment(PICTURE)
