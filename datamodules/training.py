"""Pairs for training: shuffled each epoch, a share kept for validation.

Legend: B pairs of a rank's batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
from lightning import LightningDataModule
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, Sampler
from typing_extensions import override

from m2ib_lightning.datamodules.base import PairDataModule
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.loading import loader_options, stoppable_iterator
from m2ib_lightning.pairs.pair import Pair, PairBatch, PairStream, PreparedPair
from m2ib_lightning.pairs.prepare import PairDataset, Preparer

Loader = TypeVar("Loader", bound="QuietLoader")

_TRIES = 20
"""Pairs that are tried in place of one that can't be read."""


@dataclass(frozen=True)
class Sample:
    """A pair, and the tokens of its hard negatives."""

    prepared: PreparedPair
    hard_negatives: list[list[int]]


class GoodPairs(Dataset[Sample]):
    """A split, in which a pair that can't be read is replaced by the next of the split that can.

    All ranks then have batches of one size, as shared gradients need.

    Args:
        pairs: the pairs.
        split: which of them, in order.
        hard_negatives: how many hard negatives each must have.
    """

    def __init__(self, pairs: PairDataset, split: NDArray[np.int64], hard_negatives: int = 0) -> None:
        self.pairs = pairs
        self.split = split
        self.hard_negatives = hard_negatives
        self._said = False

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> Sample:
        errors = []
        for step in range(min(_TRIES, len(self))):
            item = self.pairs[int(self.split[(place + step) % len(self)])]
            try:
                if not isinstance(item, Pair):
                    return Sample(item, self._hard_negatives(item.pair))
                error = item.error
            except PairError as problem:
                error = f"another caption: {problem}"
            key = item.key if isinstance(item, Pair) else item.pair.key
            errors.append(f"{key}: {error}")
            if not self._said:
                self._said = True
                warnings.warn(
                    f"a pair is replaced by the next of its split, and others may be: {errors[0]}", stacklevel=2
                )
        raise M2IBError(f"{len(errors)} pairs one after another can't be read; the first: {errors[0]}")

    def _hard_negatives(self, pair: Pair) -> list[list[int]]:
        texts = [other.text for other in pair.other_captions(self.hard_negatives)]
        if len(texts) < self.hard_negatives:
            raise PairError(f"finetune.hard_negatives={self.hard_negatives} and the pair has {len(texts)}")
        return [self.pairs.preparer.read_caption(text)[0] for text in texts]


class EpochSampler(Sampler[list[int]]):
    """Batches of an epoch, keyed by (seed, epoch) alone.

    Global batch *g* is the same set of pairs on any number of ranks; each takes its part of it. What does not fill a
    global batch is left for other epochs.

    Args:
        pairs: how many there are.
        batch_size: B.
        seed: keys the order.
        rank: of this process.
        ranks: how many there are.
        shuffle: whether the order changes.

    Attributes:
        done: batches of the epoch that its next iteration leaves out.
    """

    def __init__(self, pairs: int, batch_size: int, seed: int, rank: int, ranks: int, shuffle: bool = True) -> None:
        self.pairs = pairs
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.shuffle = shuffle
        self.epoch = 0
        self.done = 0
        self.sampler = self  # Lightning tells the epoch to a batch sampler's sampler

    def set_epoch(self, epoch: int) -> None:
        """Lightning says which epoch it is."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.pairs // (self.batch_size * self.ranks)

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.pairs)
        if self.shuffle:
            order = np.random.default_rng([self.seed, self.epoch]).permutation(self.pairs)
        whole = self.batch_size * self.ranks
        for batch in range(self.done, len(self)):
            first = batch * whole + self.rank * self.batch_size
            yield order[first : first + self.batch_size].tolist()


def _collate(preparer: Preparer, samples: list[Sample]) -> PairBatch:
    """The pairs, with their other captions behind their own, as ``caption_signatures`` has them."""
    batch = preparer.collate([sample.prepared for sample in samples])
    if not any(sample.hard_negatives for sample in samples):
        return batch
    place = {id(sample.prepared.pair): sample for sample in samples}
    ordered = [place[id(pair)] for pair in batch.pairs]
    captions = [list(sample.prepared.input_ids) for sample in ordered]
    captions += [ids for sample in ordered for ids in sample.hard_negatives]
    batch.inputs["text"] = preparer.pad(captions)
    return batch


class QuietLoader(DataLoader[Any]):
    """Ends its workers when its iteration fails; they would not end themselves."""

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # DataLoader says which class of iterator
        return stoppable_iterator(super().__iter__)


class EpochLoader(QuietLoader):
    """Knows how far its epoch is, so that a run can go on inside of one. All ranks are equally far.

    Attributes:
        progress: the epoch, and how many of its batches were handed out.
    """

    progress = (0, 0)
    _begun = False

    @override
    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        sampler = self.batch_sampler
        assert isinstance(sampler, EpochSampler)
        epoch, done = self.progress
        sampler.done = done if epoch == sampler.epoch and not self._begun else 0
        self._begun = True
        for number, batch in enumerate(super().__iter__(), sampler.done + 1):
            self.progress = (sampler.epoch, number)
            yield batch


class FinetuneDataModule(LightningDataModule):
    """The pairs of a ``PairDataModule`` for training and validation.

    Args:
        pairs: where they come from.
        seed: keys the split and the order.
        validation: share that is kept for validation.
        shuffle: whether each epoch has its own order; else it is that of the source.
        hard_negatives: how many hard negatives of each pair its training batch contrasts with.
        pictures: how many validation pairs, at least, keep a copy of their picture to draw on.

    Raises:
        M2IBError: if the source is a stream, or there are too few pairs.
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
                "task=finetune reads pairs by their places: it needs a table or a folder, not a stream "
                "(data.streaming=false)"
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
        kept = round(validation * total)
        if validation > 0 and kept < 1:
            raise M2IBError(
                f"finetune.validation={validation} of {total} pairs leaves none for validation: give more pairs, a "
                "larger share, or 0 for none"
            )
        order = np.random.default_rng([seed, 0xA11]).permutation(total)
        self.validation = np.sort(order[:kept])
        self.training = np.sort(order[kept:])

    @property
    def _world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def check(self, ranks: int) -> None:
        """Whether the pairs make a batch to contrast.

        Raises:
            M2IBError: if not.
        """
        whole = self.pairs.batch_size * ranks
        if whole < 2:
            raise M2IBError(
                "a global batch of one pair has nothing to contrast: data.batch_size times the ranks must be at least 2"
            )
        if len(self.training) < whole:
            raise M2IBError(
                f"{len(self.training)} pairs to train on do not fill one global batch of {whole} "
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
        """How far the epoch is, for checkpoints."""
        epoch, batches = self._progress if self._epoch is None else self._epoch.progress
        return {"epoch": epoch, "batches": batches}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # Lightning restores this before it asks for the loader.
        self._progress = (state_dict["epoch"], state_dict["batches"])

    @override
    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """All ranks read all of it: its embeddings are few, and recall needs them together."""
        if len(self.validation) == 0:
            return []
        size = self.pairs.batch_size
        places = list(range(len(self.validation)))
        batches = [places[first : first + size] for first in range(0, len(places), size)]
        kept = int(self.validation[: self.pictures][-1]) + 1 if self.pictures else 0
        return self._loader(self.validation, batches, QuietLoader, pictures=kept)

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
            collate_fn=partial(_collate, self.pairs.preparer),
            **loader_options(self.pairs.num_workers),
        )
