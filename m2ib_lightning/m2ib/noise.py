"""The noise of the bottleneck: common random numbers, the same for every pair, batch, device and rank."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality


def draw_noise(seed: int, modality: Modality, step: int, shape: tuple[int, int, int]) -> Tensor:
    """Standard normal numbers from ``SeedSequence([seed, modality, step])``, drawn on the CPU in float32.

    Args:
        seed: the run's seed.
        modality: keys the stream (image 0, text 1).
        step: keys the stream: the optimiser step, from 0.
        shape: (K, T_max, D), with T_max the tower's largest number of tokens. Drawing fewer tokens would give other
            numbers, so a caption's noise would depend on its neighbours' lengths: draw all, then slice.
    """
    sequence = np.random.SeedSequence([seed, MODALITIES.index(modality), step])
    return torch.from_numpy(np.random.default_rng(sequence).standard_normal(shape, dtype=np.float32))


class NoiseCache:
    """The latest draws, for all runs of this process: a second ``explain`` need not draw again.

    Args:
        budget: how many bytes are kept.
    """

    def __init__(self, budget: int = 256 * 2**20) -> None:
        self.budget = budget
        self._kept: OrderedDict[tuple[int, Modality, int, tuple[int, int, int]], Tensor] = OrderedDict()
        self._lock = Lock()

    def __call__(self, seed: int, modality: Modality, step: int, shape: tuple[int, int, int]) -> Tensor:
        """As ``draw_noise``; do not write to it."""
        key = (seed, modality, step, shape)
        with self._lock:
            noise = self._kept.pop(key, None)
            if noise is None:
                noise = draw_noise(*key)
            self._kept[key] = noise
            while sum(tensor.nbytes for tensor in self._kept.values()) > self.budget:
                self._kept.popitem(last=False)
        return noise


_drawn = NoiseCache()


class NoiseBank:
    """The noise of a whole run for one tower: kept on the device while it fits ``budget``, else drawn again.

    Args:
        seed: the run's seed.
        modality: which tower.
        shape: (K, T_max, D).
        budget: how many bytes may be kept.
    """

    def __init__(self, seed: int, modality: Modality, shape: tuple[int, int, int], budget: int = 512 * 2**20) -> None:
        self.seed = seed
        self.modality: Modality = modality
        self.shape = shape
        self._budget = budget
        self._kept: dict[int, Tensor] = {}

    def __call__(self, step: int, tokens: int, like: Tensor) -> Tensor:
        """(K, tokens, D), in the type and on the device of ``like``."""
        noise = self._kept.get(step)
        if noise is None or noise.device != like.device or noise.dtype != like.dtype:
            noise = _drawn(self.seed, self.modality, step, self.shape).to(like)
            if (len(self._kept) + 1) * noise.numel() * noise.element_size() <= self._budget:
                self._kept[step] = noise
        return noise[:, :tokens]

    def clear(self) -> None:
        """Let go of what is kept on the device."""
        self._kept.clear()
