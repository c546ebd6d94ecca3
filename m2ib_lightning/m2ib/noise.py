"""The bottleneck's noise: common random numbers for every pair, batch, device and rank."""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality


def draw_noise(seed: int, modality: Modality, step: int, shape: tuple[int, int, int]) -> Tensor:
    """Draw standard normal numbers from ``SeedSequence([seed, modality, step])``, on the CPU in float32.

    Callers draw all T_max tokens and then slice. A smaller draw gives other numbers, so the noise of a caption would
    depend on the lengths of its neighbours.

    Args:
        seed: the run's seed.
        modality: the tower; image seeds with 0 and text with 1.
        step: the optimiser step, from 0.
        shape: (K, T_max, D), with T_max the tower's largest number of tokens.
    """
    sequence = np.random.SeedSequence([seed, MODALITIES.index(modality), step])
    return torch.from_numpy(np.random.default_rng(sequence).standard_normal(shape, dtype=np.float32))


def centred(noise: Tensor) -> Tensor:
    """Return draws (K, T, D) less their mean, each still of variance 1; a single draw stays as it is.

    What is linear in the noise then cancels in the mean over the draws. On the bundled model this lowers the variance
    of the saliency as much as twice as many draws do.
    """
    draws = len(noise)
    return noise if draws == 1 else (noise - noise.mean(0)) * (draws / (draws - 1)) ** 0.5


class NoiseCache:
    """Cache of the noise that was used last, shared by all runs of this process.

    Args:
        budget: largest number of cached bytes.
    """

    def __init__(self, budget: int = 256 * 2**20) -> None:
        self.budget = budget
        self._tensors: OrderedDict[tuple[int, Modality, int, tuple[int, int, int]], Tensor] = OrderedDict()
        self._lock = Lock()

    def __call__(self, seed: int, modality: Modality, step: int, shape: tuple[int, int, int]) -> Tensor:
        """Return the result of ``draw_noise``, cached. The caller must not modify the tensor."""
        key = (seed, modality, step, shape)
        with self._lock:
            noise = self._tensors.pop(key, None)
            if noise is None:
                noise = draw_noise(*key)
            self._tensors[key] = noise
            while sum(tensor.nbytes for tensor in self._tensors.values()) > self.budget:
                self._tensors.popitem(last=False)
        return noise


_process_cache = NoiseCache()


class NoiseBank:
    """Noise of one tower for a whole run, cached on the device.

    Args:
        seed: the run's seed.
        modality: the tower.
        shape: (K, T_max, D), with T_max the tower's largest number of tokens.
        is_centred: whether the draws of a step are ``centred``.
        budget: largest number of cached bytes.
    """

    def __init__(
        self,
        seed: int,
        modality: Modality,
        shape: tuple[int, int, int],
        is_centred: bool = False,
        *,
        budget: int = 512 * 2**20,
    ) -> None:
        self.seed = seed
        self.modality: Modality = modality
        self.shape = shape
        self.is_centred = is_centred
        self._budget = budget
        self._steps: dict[int, Tensor] = {}

    def __call__(self, step: int, tokens: int, like: Tensor) -> Tensor:
        """Return the noise (K, tokens, D) of a step, in the dtype and on the device of ``like``."""
        noise = self._steps.get(step)
        draws, most, width = self.shape
        if tokens > most:  # the model interpolates its positions for larger pictures, which are all of one size
            return self._draw(step, (draws, tokens, width)).to(like)
        if noise is None or noise.device != like.device or noise.dtype != like.dtype:
            noise = self._draw(step, self.shape).to(like)
            if (len(self._steps) + 1) * noise.nbytes <= self._budget:
                self._steps[step] = noise
        return noise[:, :tokens]

    def _draw(self, step: int, shape: tuple[int, int, int]) -> Tensor:
        noise = _process_cache(self.seed, self.modality, step, shape)
        return centred(noise) if self.is_centred else noise

    def clear(self) -> None:
        """Free the cached tensors on the device."""
        self._steps.clear()
