"""A sanity check of the loss: whether it separates matched pairs from shuffled ones."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from m2ib_lightning.metrics.checks import undefined


def matched_auc(matched: Tensor, shuffled: Tensor) -> Tensor:
    r"""Probability that a matched pair's loss is lower than a shuffled one's, ties counted half.

    .. math::
        \frac{1}{N M} \sum_{i, j} \left( 1[l_i < l'_j] + \tfrac12 1[l_i = l'_j] \right)

    This is the area under the ROC curve (Mann and Whitney, 1947). Chance is 0.5. The samples may differ in size.

    Args:
        matched: (N,) losses l of images with their own captions.
        shuffled: (M,) losses l' of images with other captions.

    Returns:
        A scalar from 0 to 1, float64; NaN where a sample is empty or holds a NaN.

    >>> matched_auc(torch.tensor([0.1, 0.2]), torch.tensor([0.2, 0.3])).item()
    0.875
    """
    low, high = matched.detach().double().flatten(), shuffled.detach().double().flatten().to(matched.device)
    if not len(low) or not len(high) or bool(low.isnan().any() | high.isnan().any()):
        return undefined(matched)
    high = high.sort().values
    at_most = torch.searchsorted(high, low, right=True)  # number of shuffled losses <= each matched one
    below = torch.searchsorted(high, low)
    twice = 2 * (len(high) - at_most) + (at_most - below)  # exact: whole numbers
    return twice.sum().double() / (2 * len(low) * len(high))


class MatchedAUC(Metric):
    """The ``matched_auc`` of the losses of all updates and processes.

    The metric keeps every loss, 8 bytes each. A loss that is NaN is left out and counted in ``left_out``.

    >>> metric = MatchedAUC()
    >>> metric.update(matched=torch.tensor([0.1]), shuffled=torch.tensor([0.2, 0.3, 0.05, 0.4]))
    >>> metric.compute().item()
    0.75
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    matched: list[Tensor]
    shuffled: list[Tensor]
    left_out: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)  # a process without losses gathers an empty tensor of this type
        self.add_state("matched", [], dist_reduce_fx="cat")
        self.add_state("shuffled", [], dist_reduce_fx="cat")
        self.add_state("left_out", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, matched: Tensor, shuffled: Tensor) -> None:
        """Add losses (N,) of matched pairs and (M,) of shuffled pairs."""
        self.matched.append(self._without_nan(matched))
        self.shuffled.append(self._without_nan(shuffled))

    def compute(self) -> Tensor:
        """Return the AUC, a scalar in float64; NaN if one kind of losses is missing."""
        return matched_auc(self._joined(self.matched), self._joined(self.shuffled))

    def _without_nan(self, losses: Tensor) -> Tensor:
        losses = losses.detach().to(self.device, torch.float64).flatten()
        missing = losses.isnan()
        self.left_out += missing.sum()
        return losses[~missing]

    def _joined(self, losses: Tensor | list[Tensor]) -> Tensor:
        if isinstance(losses, list) and not losses:
            return torch.zeros(0, dtype=torch.float64, device=self.device)
        return dim_zero_cat(losses)
