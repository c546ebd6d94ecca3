"""Controls: maps that do not look at the pair. A method that does not beat them shows nothing."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.method import SaliencyMethod
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import Pair, PairBatch


class Random(SaliencyMethod):
    """A control whose maps are random numbers from U(0, 1), determined by the seed and the pair's key."""

    random = True
    pair_specific = False

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        grid = self.scorer.grid(batch)
        maps = [self._generator(pair, "image").random(grid) for pair in batch.pairs]
        return torch.from_numpy(np.stack(maps))

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        result = torch.zeros(batch.inputs["text"]["input_ids"].shape, dtype=torch.float64)
        for row, pair in enumerate(batch.pairs):
            numbers = self._generator(pair, "text").random(len(pair.token_positions))
            result[row, pair.token_positions] = torch.from_numpy(numbers)
        return result

    def _generator(self, pair: Pair, modality: Modality) -> np.random.Generator:
        key = hashlib.sha256(pair.key.encode("utf-8", "surrogatepass")).digest()[:8]
        return np.random.default_rng([self.context.seed, MODALITIES.index(modality), int.from_bytes(key)])


class Centre(SaliencyMethod):
    """A control whose map is a Gaussian at the centre of the picture, or of the caption.

    Its sigma is a quarter of the picture's side, or of the caption's length.
    """

    pair_specific = False

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        height, width = self.scorer.grid(batch)
        return (_gaussian(height)[:, None] * _gaussian(width)[None]).expand(len(batch), -1, -1)

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        result = torch.zeros(batch.inputs["text"]["input_ids"].shape, dtype=torch.float64)
        for row, pair in enumerate(batch.pairs):
            result[row, pair.token_positions] = _gaussian(len(pair.token_positions))
        return result


def _gaussian(count: int) -> Tensor:
    positions = (torch.arange(count, dtype=torch.float64) + 0.5) / count - 0.5
    return torch.exp(-0.5 * (positions / 0.25) ** 2)


register_method("random", Random)
register_method("centre", Centre)
