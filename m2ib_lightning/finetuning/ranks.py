"""The exchange between the ranks of a training: rows of a batch, and votes.

Legend: B rows of this rank, N rows of all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor


class Ranks:
    """The ranks of a training, seen from this one.

    Args:
        module: a module that a Trainer runs.
    """

    def __init__(self, module: LightningModule) -> None:
        self.module = module

    @property
    def sharded(self) -> bool:
        """Whether each rank has only a share of the weights."""
        return self.module.device_mesh is not None

    def gather(self, values: Tensor) -> Tensor:
        """Gather rows (B, ...) from every rank to (N, ...), in the order of ranks, with gradients."""
        if self.module.trainer.world_size == 1:
            return values
        gathered: Any = self.module.all_gather(values, sync_grads=values.requires_grad)
        rows: Tensor = gathered.flatten(0, 1)
        return rows

    def own_rows(self, count: int) -> slice:
        """Return where this rank's ``count`` rows stand among the gathered ones."""
        return slice(self.module.global_rank * count, (self.module.global_rank + 1) * count)

    def all_finite(self, loss: Tensor) -> bool:
        """Return whether the loss is finite on every rank; a rank that stopped alone would leave the others waiting."""
        bad = (~loss.detach().isfinite()).float()
        total: Any = bad if self.module.trainer.world_size == 1 else self.module.all_gather(bad)
        return bool(total.sum() == 0)

    def all_agree(self, vote: bool) -> bool:
        """Return whether every rank votes yes, if the weights are sharded; else this rank's own vote.

        A rank that ran a sharded model alone would wait for the others forever.
        """
        if not self.sharded:
            return vote
        votes: Any = self.module.all_gather(torch.tensor(float(vote), device=self.module.device))
        return bool(votes.all())
