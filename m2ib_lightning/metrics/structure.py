"""Structure of a map: how sparse or spread out it is, without regard to its target.

Both functions read the absolute values of one map of any shape and return a scalar in float64. The scalar is NaN where
the map is empty or has a value that is not finite. One wrong pixel is as sparse as one right pixel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from m2ib_lightning.metrics.checks import flat, undefined


def sparseness(saliency: Tensor) -> Tensor:
    r"""Gini index of the absolute values; higher is sparser.

    .. math::
        \frac{\sum_{i=1}^{n} (2 i - n - 1) \, |a|_{(i)}}{n \sum_i |a|_{(i)}}

    The values are in rising order. The measure is by Chalasani et al. (2020). Quantus also adds 1e-7 to each value.

    Returns:
        A scalar from 0 (all values equal, also for a blank map) to 1 - 1/n (one value holds all mass).

    >>> sparseness(torch.tensor([0.0, 0.0, -2.0, 0.0])).item()
    0.75
    """
    values = flat(saliency)
    if values is None:
        return undefined(saliency)
    ordered = values.abs().sort().values
    n, total = len(ordered), ordered.sum()
    weights = torch.arange(1 - n, n, 2, dtype=ordered.dtype, device=ordered.device)  # 2 i - n - 1
    return (weights * ordered).sum() / (n * total) if total > 0 else total


def complexity(saliency: Tensor) -> Tensor:
    r"""Entropy of the shares of the absolute values, in nats; lower is simpler.

    .. math::
        -\sum_i p_i \log p_i, \quad p_i = |a_i| \Big/ \sum_j |a_j|

    The measure is by Bhatt et al. (2020), as in Quantus.

    Returns:
        A scalar from 0 (one value holds all mass) to log n (all values equal, also for a blank map).

    >>> round(complexity(torch.tensor([1.0, -1.0, 0.0])).item(), 4)  # log 2
    0.6931
    """
    values = flat(saliency)
    if values is None:
        return undefined(saliency)
    mass = values.abs()
    total = mass.sum()
    return torch.special.entr(mass / total).sum() if total > 0 else total + math.log(len(mass))
