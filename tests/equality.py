"""The comparison of two results."""

from __future__ import annotations

from typing import Any

import torch

from m2ib_lightning.results.attribution import Attribution


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
