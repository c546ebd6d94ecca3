"""Load pairs for training: shuffled in each epoch, with a share held out for validation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader
from typing_extensions import override

from m2ib_lightning.datamodules.base import PairDataModule
from m2ib_lightning.datamodules.epochs import EpochLoader, EpochSampler, QuietLoader
from m2ib_lightning.datamodules.good_pairs import GoodPairs, collate
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.loading import loader_options
from m2ib_lightning.pairs.pair import PairStream
from m2ib_lightning.pairs.prepare import PairDataset

Loader = TypeVar("Loader", bound=QuietLoader)


class FinetuneDataModule(LightningDataModule):
    """Loads the pairs of a ``PairDataModule`` for training and validation.

    Args:
        pairs: the source of the pairs.
        seed: seed of the split and of the order.
        validation: share of the pairs for validation.
        shuffle: whether each epoch has its own order; otherwise, every epoch has the order of the source.
        hard_negatives: number of hard negatives that each pair adds to its training batch.
        pictures: number of first validation pairs that keep a copy of their picture for display.

    Raises:
        M2IBError: if the source is a stream, or has too few pairs.
    """

    def __init__(
        self,
        pairs: PairDataModule,
        seed: int,
        validation: float,
        *,
        shuffle: bool = True,
        hard_negatives: int = 0,
        pictures: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(pairs.source, PairStream):
            raise M2IBError(
                "task=finetune reads pairs by position, so it needs a table or a folder, not a stream: set "
                "data.streaming=false"
            )
        if not 0 <= validation < 1:
            raise M2IBError(f"finetune.validation must be a share from 0 to below 1, got {validation}")
        self.pairs = pairs
        self.seed = seed
        self.shuffle = shuffle
        self.hard_negatives = hard_negatives
        self.pictures = pictures
        self._epoch: EpochLoader | None = None
        self._progress = (0, 0)
        total = len(pairs)
        held_out = round(validation * total)
        if validation > 0 and held_out < 1:
            raise M2IBError(
                f"finetune.validation={validation} of {total} pairs leaves none for validation: give more pairs, a "
                "larger share, or 0 for none"
            )
        order = np.random.default_rng([seed, 0xA11]).permutation(total)
        self.validation = np.sort(order[:held_out])
        self.training = np.sort(order[held_out:])

    @property
    def _world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def check(self, ranks: int) -> None:
        """Check that the training pairs fill a global batch of at least two.

        Raises:
            M2IBError: if the pairs do not fill it.
        """
        global_batch = self.pairs.batch_size * ranks
        if global_batch < 2:
            raise M2IBError(
                "a global batch of one pair has nothing to contrast: data.batch_size times the ranks must be at least 2"
            )
        if len(self.training) < global_batch:
            raise M2IBError(
                f"{len(self.training)} pairs to train on do not fill one global batch of {global_batch} "
                f"(data.batch_size={self.pairs.batch_size} on {ranks} ranks)"
            )

    @override
    def train_dataloader(self) -> DataLoader[Any]:
        rank, ranks = self._world
        self.check(ranks)
        sampler = EpochSampler(len(self.training), self.pairs.batch_size, self.seed, rank, ranks, self.shuffle)
        self._epoch = self._loader(self.training, sampler, EpochLoader, self.hard_negatives)
        self._epoch.progress = self._progress
        return self._epoch

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return the progress of the epoch, for checkpoints."""
        epoch, batches = self._progress if self._epoch is None else self._epoch.progress
        return {"epoch": epoch, "batches": batches}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning calls this before it asks for the loader.
        self._progress = (state_dict["epoch"], state_dict["batches"])

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return all validation pairs on every rank: recall needs their embeddings together, and they are few."""
        if len(self.validation) == 0:
            return []
        size = self.pairs.batch_size
        places = list(range(len(self.validation)))
        batches = [places[first : first + size] for first in range(0, len(places), size)]
        # `PairDataset` counts pictures in pairs of the source
        pictures = int(self.validation[: self.pictures][-1]) + 1 if self.pictures else 0
        return self._loader(self.validation, batches, QuietLoader, pictures=pictures)

    def _loader(
        self,
        split: NDArray[np.int64],
        batches: EpochSampler | Sequence[list[int]],
        kind: type[Loader],
        hard_negatives: int = 0,
        pictures: int = 0,
    ) -> Loader:
        source = self.pairs.source
        assert not isinstance(source, PairStream)
        return kind(
            GoodPairs(PairDataset(source, self.pairs.preparer, pictures), split, hard_negatives),
            batch_sampler=batches,
            collate_fn=partial(collate, self.pairs.preparer),
            **loader_options(self.pairs.num_workers),
        )
