"""Min-max scaling of maps, for the metrics that are defined on heatmaps in [0, 1]."""

from __future__ import annotations

from torch import Tensor


def min_max(values: Tensor, dim: tuple[int, ...]) -> Tensor:
    """Scale maps to [0, 1] by the lowest and the highest value over ``dim``; a constant map becomes zeros.

    Args:
        values: maps of any shape.
        dim: dimensions of one map; the others are batched.

    >>> import torch
    >>> min_max(torch.tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0]]), (1,)).tolist()
    [[0.0, 1.0, 0.5], [0.0, 0.0, 0.0]]
    """
    low, high = values.amin(dim, keepdim=True), values.amax(dim, keepdim=True)
    return (values - low) / (high - low).where(high > low, 1)
