"""Shared by all tests: no network, and the comparison of two results."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "0")  # with more devices, a run in this process would start pytest again

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from m2ib_lightning.results.attribution import Attribution

ROOT = Path(__file__).parents[1]
"""The checkout."""


@pytest.fixture(autouse=True)
def rank() -> Iterator[None]:
    """Restore the rank of this process, which a test of another rank changes for all of Lightning."""
    lightning: Any = rank_zero_only
    before = getattr(lightning, "rank", 0)
    yield
    lightning.rank = before


def relative_difference(a: Any, b: Any) -> float:
    """Return max|a - b| / max|b|."""
    a, b = (torch.as_tensor(value).detach().double() for value in (a, b))
    return float((a - b).abs().max() / b.abs().max())


def assert_same_result(a: Attribution, b: Attribution, tolerance: float) -> None:
    """Assert that two results of one pair agree."""
    assert a.error is None
    assert b.error is None
    assert a.pair.key == b.pair.key
    assert abs(a.similarity - b.similarity) < tolerance
    for tower in ("image", "text"):
        for name in ("saliency", "loss", "information", "similarity"):
            difference = relative_difference(getattr(getattr(a, tower), name), getattr(getattr(b, tower), name))
            assert difference < tolerance, (tower, name, difference)
