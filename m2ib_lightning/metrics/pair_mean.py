"""The mean of a score over pairs, batches and processes, as a torchmetrics ``Metric``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torchmetrics import Metric

from m2ib_lightning.errors import M2IBError

Pairs: TypeAlias = Tensor | Sequence[Tensor]
"""One tensor per pair: a list, whose tensors may differ in size, or one tensor (B, ...)."""


class PairMean(Metric):
    """The mean of a score over pairs. A subclass defines ``update``, which passes its scores to ``add``.

    A score that is NaN (an empty target, for instance) is left out of the mean and counted. Sums are float64, so
    batches of any size and any number of processes give the same mean. Without any score the mean is NaN.

    Args:
        *settings: settings of the score. They keep metrics apart in a ``MetricCollection``, which merges metrics whose
            states are equal after the first batch: by chance, two scores may both be 1 for the first pair.
        **kwargs: arguments of ``torchmetrics.Metric``.

    Attributes:
        total: sum of the scores.
        count: number of pairs with a score.
        left_out: number of pairs without a score. Like every state, it belongs to this process; read the sum over all
            processes in ``sync_context()``.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor
    left_out: Tensor

    def __init__(self, *settings: object, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("left_out", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state(
            f"{type(self).__name__}{settings}", torch.zeros(()), dist_reduce_fx="sum"
        )  # only the name matters

    def add(self, scores: Iterable[Tensor]) -> None:
        """Add scores to the mean, one scalar per pair."""
        tensors = [score.detach().to(self.total) for score in scores]
        if not tensors:
            return
        stacked = torch.stack(tensors)
        missing = stacked.isnan()
        self.total += stacked[~missing].sum()
        self.count += (~missing).sum()
        self.left_out += missing.sum()

    def compute(self) -> Tensor:
        """Return the mean, a scalar in float64; NaN if no pair has a score."""
        return self.total / self.count


def by_pair(**parts: Pairs) -> Iterator[tuple[Tensor, ...]]:
    """Iterate over the pairs of a batch, each a tuple of one tensor from every part.

    >>> [(a.tolist(), b.item()) for a, b in by_pair(a=[torch.ones(2), torch.zeros(1)], b=torch.tensor([5, 6]))]
    [([1.0, 1.0], 5), ([0.0], 6)]

    Raises:
        M2IBError: if a part is a single number, or the parts have different numbers of pairs.
    """
    single = [name for name, part in parts.items() if isinstance(part, Tensor) and part.ndim == 0]
    if single:
        raise M2IBError(f"{', '.join(single)} must be a list of tensors or a tensor (B, ...), got a single number")
    if len({len(part) for part in parts.values()}) > 1:
        counts = ", ".join(f"{name} {len(part)}" for name, part in parts.items())
        raise M2IBError(f"all parts must have the same number of pairs, got {counts}")
    return zip(*(list(part) for part in parts.values()), strict=True)
