"""Masks: run lengths and agreement, against pycocotools."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_masks

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.run_lengths import dice, from_rle, iou, to_rle

MASKS = arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6)))


@given(MASKS)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_run_lengths_are_those_of_coco(mask: NDArray[np.bool_]) -> None:
    rle = to_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    np.testing.assert_array_equal(coco_masks.decode(coco_masks.frPyObjects(rle, *mask.shape)), mask)
    np.testing.assert_array_equal(from_rle(rle), mask)
    assert coco_masks.area(coco_masks.frPyObjects(rle, *mask.shape)) == mask.sum()
    assert all(count > 0 for count in rle["counts"][1:])


def test_dice_and_iou_by_hand() -> None:
    a, b = np.zeros((2, 4, 5), bool)
    assert math.isnan(dice(a, b))
    assert math.isnan(iou(a, b))
    a[1:3, 1:4] = True  # 6 pixels
    assert dice(a, b) == iou(a, b) == 0
    b[2:4, 2:5] = True  # 6 pixels, 2 of them shared
    assert dice(a, b) == 2 * 2 / 12
    assert iou(a, b) == 2 / 10
    assert dice(a, a) == iou(a, a) == 1


@given(MASKS)
@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow])
def test_iou_is_cocos(mask: NDArray[np.bool_]) -> None:
    other = mask[::-1].copy()
    if mask.any():
        one, two = (coco_masks.encode(np.asfortranarray(m.astype(np.uint8))) for m in (mask, other))
        assert iou(mask, other) == pytest.approx(coco_masks.iou([one], [two], [0]).item())


def test_bad_masks_are_named() -> None:
    with pytest.raises(M2IBError, match=r"must be of one size, got \(2, 2\) and \(2, 3\)"):
        dice(np.ones((2, 2), bool), np.ones((2, 3), bool))
    with pytest.raises(M2IBError, match=r"must be \(H, W\) of bool, got \(2, 2\) of float64"):
        to_rle(np.ones((2, 2)))
    with pytest.raises(M2IBError, match="add up to 2 x 2"):
        from_rle({"size": [2, 2], "counts": [3]})
