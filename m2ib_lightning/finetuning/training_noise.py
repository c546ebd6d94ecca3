"""The noise of training: of each pair its own, whatever batch and rank it is in.

Legend: B pairs, T tokens, D width.
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


def _threads() -> int:
    """Those that torch computes with; under torchrun, which gives each rank one, its share of the processors."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "0"))
    if ranks and hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)) // ranks)
    return torch.get_num_threads()


def draw_noise(seed: int, modality: Modality, epoch: int, keys: Sequence[str], shape: tuple[int, int]) -> Tensor:
    """Standard normal numbers (B, T, D) on the CPU, in float32.

    Those of a key are keyed by (seed, tower, epoch, key) alone, and those of a token do not depend on T. Several
    threads draw.
    """
    noise = torch.empty(len(keys), *shape, dtype=torch.float32)
    rows: np.ndarray = noise.numpy()

    def draw(row: int) -> None:
        words = hashlib.sha256(keys[row].encode("utf-8", "surrogatepass")).digest()[:8]
        sequence = np.random.SeedSequence([seed, MODALITIES.index(modality), epoch, int.from_bytes(words)])
        np.random.default_rng(sequence).standard_normal(dtype=np.float32, out=rows[row])

    with ThreadPoolExecutor(_threads()) as threads:
        list(threads.map(draw, range(len(keys))))
    return noise
