"""The noise of training: it depends on the pair, not on the pair's batch or rank.

Legend: B pairs, C captions, T tokens, D width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.finetuning.network import Noise
from m2ib_lightning.pairs.pair import Pair


def pair_noise(seed: int, epoch: int, pairs: Sequence[Pair]) -> Noise:
    """Return the noise of a batch in an epoch: (B, T, D) for pictures, (C, T, D) for captions and hard negatives."""

    def noise(modality: Modality, z: Tensor) -> Tensor:
        keys = [pair.key for pair in pairs]
        if modality == "text":
            hard_negatives = len(z) // len(pairs) - 1
            keys += [f"{pair.key}#{number}" for pair in pairs for number in range(hard_negatives)]
        drawn = draw_noise(seed, modality, epoch, keys, (z.shape[1], z.shape[2]))
        if z.device.type == "cuda":
            drawn = drawn.pin_memory()
        return drawn.to(z, non_blocking=True)

    return noise


def draw_noise(seed: int, modality: Modality, epoch: int, keys: Sequence[str], shape: tuple[int, int]) -> Tensor:
    """Draw standard normal numbers (B, T, D) on the CPU, in float32, with several threads.

    A key's numbers depend on (seed, tower, epoch, key) alone. A token's numbers do not depend on T.
    """
    noise = torch.empty(len(keys), *shape, dtype=torch.float32)
    rows: np.ndarray = noise.numpy()

    def draw(row: int) -> None:
        digest = hashlib.sha256(keys[row].encode("utf-8", "surrogatepass")).digest()[:8]
        sequence = np.random.SeedSequence([seed, MODALITIES.index(modality), epoch, int.from_bytes(digest)])
        np.random.default_rng(sequence).standard_normal(dtype=np.float32, out=rows[row])

    with ThreadPoolExecutor(_threads()) as threads:
        list(threads.map(draw, range(len(keys))))
    return noise


def _threads() -> int:
    """Return the number of torch's threads; under torchrun, which sets that to 1, the rank's share of the CPUs."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if ranks and hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)) // ranks)
    return torch.get_num_threads()
