"""Drop and increase in confidence: the score of a pair when the model sees only what the map highlights.

``masked`` is the score of the pair whose image was multiplied by its heatmap. Both metrics are absolute, as in
pytorch-grad-cam (``DropInConfidence``, ``IncreaseInConfidence``): the drop is not divided by the clean score, as
Grad-CAM++'s Average Drop is, and nothing is multiplied by 100. A map of ones has drop 0 and increase 0, so report
``map_mass`` with them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.metrics.checks import check_same_shape

_ROUNDING = 1e-5  # a resized heatmap may leave [0, 1] by this much


def confidence_drop(clean: Tensor, masked: Tensor) -> Tensor:
    r"""Drop of the score under the map, :math:`\max(0, s - s')`; lower is better.

    Args:
        clean: (B,) scores s of the unaltered pairs.
        masked: (B,) scores s' of the pairs under their maps.

    Returns:
        (B,) float64, in the unit of the scores.

    Raises:
        M2IBError: if the shapes differ.

    >>> confidence_drop(torch.tensor([0.5, 0.25]), torch.tensor([0.25, 0.5])).tolist()
    [0.25, 0.0]
    """
    check_same_shape(clean=clean, masked=masked)
    return (clean.detach().double() - masked.detach().double()).clamp(min=0)


def confidence_increase(clean: Tensor, masked: Tensor) -> Tensor:
    """Whether the score rises under the map: 1 where it rose, 0 where it fell or stayed. Higher is better.

    Args:
        clean: (B,) scores of the unaltered pairs.
        masked: (B,) scores of the pairs under their maps.

    Returns:
        (B,) float64; NaN where a score is NaN.

    Raises:
        M2IBError: if the shapes differ.

    >>> confidence_increase(torch.tensor([0.5, 0.25, 0.5]), torch.tensor([0.25, 0.5, 0.5])).tolist()
    [0.0, 1.0, 0.0]
    """
    check_same_shape(clean=clean, masked=masked)
    change = masked.detach().double() - clean.detach().double()
    return torch.where(change.isnan(), change, (change > 0).double())


def map_mass(heatmap: Tensor) -> Tensor:
    """Mean of a heatmap, the part of the image that it keeps. Neither high nor low is better by itself.

    Args:
        heatmap: a heatmap of any shape, in [0, 1].

    Returns:
        A scalar from 0 to 1, float64.

    Raises:
        M2IBError: if a value is outside [0, 1], as in raw saliency.

    >>> map_mass(torch.tensor([[1.0, 0.5], [0.0, 0.5]])).item()
    0.5
    """
    values = heatmap.detach().double()
    if bool(((values < -_ROUNDING) | (values > 1 + _ROUNDING)).any()):
        low, high = values.min().item(), values.max().item()
        raise M2IBError(f"heatmap must be in [0, 1], got values from {low:.4g} to {high:.4g}: scale it first")
    return values.mean()
