"""The batches of a training epoch: their order on every rank, and the progress of the epoch.

Legend: B pairs in the batch of one rank.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler
from typing_extensions import override

from m2ib_lightning.pairs.loading import stoppable_iterator


class EpochSampler(Sampler[list[int]]):
    """Samples the batches of an epoch, whose order depends only on (seed, epoch).

    Global batch *g* is the same set of pairs on any number of ranks; each rank takes its part of it. Pairs that do not
    fill a global batch are left out of the epoch.

    Args:
        pairs: number of pairs.
        batch_size: number B of pairs in the batch of one rank.
        seed: seed of the order.
        rank: index of this process.
        ranks: number of processes.
        shuffle: whether every epoch has its own order.

    Attributes:
        done: number of batches that the next iteration skips.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int, rank: int, ranks: int, shuffle: bool = True) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.shuffle = shuffle
        self.epoch = 0
        self.done = 0
        self.sampler = self  # Lightning calls set_epoch of a batch sampler's sampler

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.pairs // (self.batch_size * self.ranks)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.pairs)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.pairs)
        global_batch = self.batch_size * self.ranks
        for batch in range(self.done, len(self)):
            first = batch * global_batch + self.rank * self.batch_size
            yield order[first : first + self.batch_size].tolist()


class QuietLoader(DataLoader[Any]):
    """A loader that ends its workers when its iteration fails; torch would leave them running."""

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader promises its own iterator class
        return stoppable_iterator(super().__iter__)


class EpochLoader(QuietLoader):
    """A loader that records its progress, so that a run can resume within an epoch. All ranks have the same progress.

    Attributes:
        progress: the epoch, and how many of its batches were yielded.
    """

    progress = (0, 0)
    _started = False

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self.batch_sampler
        assert isinstance(sampler, EpochSampler)
        epoch, done = self.progress
        sampler.done = done if epoch == sampler.epoch and not self._started else 0
        self._started = True
        for number, batch in enumerate(super().__iter__(), sampler.done + 1):
            self.progress = (sampler.epoch, number)
            yield batch
