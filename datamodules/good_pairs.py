"""A split of the pairs for training, in which another pair replaces each one that can't be read."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from m2ib_lightning.errors import M2IBError, PairError, escaped
from m2ib_lightning.pairs.pair import Pair, PairBatch, PreparedPair
from m2ib_lightning.pairs.prepare import PairDataset, Preparer

_TRIES = 20
"""Largest number of pairs that are tried for one place in the split."""


@dataclass(frozen=True)
class Sample:
    """A prepared pair, and the token ids of its hard negatives."""

    prepared: PreparedPair
    hard_negatives: list[list[int]]


class GoodPairs(Dataset[Sample]):
    """A split in which a pair that can't be read is replaced by the next readable one of the split.

    All ranks thus have batches of the same size, as synchronised gradients require.

    Args:
        pairs: the pairs of the source.
        split: positions of the split's pairs, in order.
        hard_negatives: number of hard negatives that each pair must have.
    """

    def __init__(self, pairs: PairDataset, split: NDArray[np.int64], hard_negatives: int = 0) -> None:
        self.pairs = pairs
        self.split = split
        self.hard_negatives = hard_negatives
        self._warned = False

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
                error = f"a hard negative: {problem}"
            key = item.key if isinstance(item, Pair) else item.pair.key
            errors.append(escaped(f"{key}: {error}"))
            self._warn_once(errors[0])
        raise M2IBError(f"{len(errors)} pairs in a row can't be read; the first: {errors[0]}")

    def _warn_once(self, error: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"a pair that can't be read is replaced by the next of its split (shown once): {error}", stacklevel=3
            )

    def _hard_negatives(self, pair: Pair) -> list[list[int]]:
        texts = [other.text for other in pair.other_captions(self.hard_negatives)]
        if len(texts) < self.hard_negatives:
            raise PairError(f"finetune.hard_negatives={self.hard_negatives} and the pair has {len(texts)}")
        return [self.pairs.preparer.read_caption(text)[0] for text in texts]


def collate(preparer: Preparer, samples: list[Sample]) -> PairBatch:
    """Collate samples; the hard negatives follow the pairs' captions, in the order of ``caption_signatures``."""
    batch = preparer.collate([sample.prepared for sample in samples])
    if not any(sample.hard_negatives for sample in samples):
        return batch
    sample_of = {id(sample.prepared.pair): sample for sample in samples}
    ordered = [sample_of[id(pair)] for pair in batch.pairs]
    captions = [list(sample.prepared.input_ids) for sample in ordered]
    captions += [ids for sample in ordered for ids in sample.hard_negatives]
    batch.inputs["text"] = preparer.pad(captions)
    return batch
