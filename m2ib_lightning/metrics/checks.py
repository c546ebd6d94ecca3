"""Checks of the metrics' inputs, and the value of an undefined score."""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.errors import M2IBError


def check_same_shape(**tensors: Tensor) -> None:
    """Check that all tensors have one shape.

    >>> check_same_shape(saliency=torch.zeros(4, 4), target=torch.zeros(4, 3))
    Traceback (most recent call last):
    m2ib_lightning.errors.M2IBError: one shape expected, got saliency (4, 4), target (4, 3)

    Raises:
        M2IBError: if the shapes differ.
    """
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        raise M2IBError(f"one shape expected, got {shapes}")


def flat(values: Tensor) -> Tensor | None:
    """Flatten to (N,) in float64 without a gradient; return None if there is no value, or one is not finite."""
    values = values.detach().double().flatten()
    return values if values.numel() and bool(values.isfinite().all()) else None


def undefined(like: Tensor) -> Tensor:
    """Return NaN, the value of an undefined score, on the device of ``like``."""
    return torch.tensor(float("nan"), dtype=torch.float64, device=like.device)
