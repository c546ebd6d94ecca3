"""Smoothed maps: any method's image maps, blurred by a Gaussian."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from typing_extensions import override

from m2ib_lightning.methods.method import Method
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.tower_attribution import Floats


class Smoothed(Method):
    """Wraps a method and blurs its image maps with a Gaussian.

    At the borders, only the patches inside the map are averaged.

    Args:
        method: the method whose maps are blurred.
        sigma: width of the Gaussian, in patches.
    """

    def __init__(self, method: Method, sigma: float) -> None:
        super().__init__(method.context)
        self.method = method
        self.sigma = sigma
        # Other methods set these on the class. Here they differ from instance to instance.
        self.random, self.pair_specific = method.random, method.pair_specific  # type: ignore[misc]

    @override
    def at_work(self, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
        return self.method.at_work(device, dtype)

    @override
    def __call__(self, batch: PairBatch) -> list[Attribution]:
        return [self._smoothed(result) for result in self.method(batch)]

    def _smoothed(self, result: Attribution) -> Attribution:
        if result.image is None:
            return result
        down, across = (_weights(count, self.sigma) for count in result.image.saliency.shape)

        def blurred(maps: Floats) -> Floats:  # (..., grid_h, grid_w)
            return (down @ maps @ across.T).astype(maps.dtype)

        units = result.units
        if units is not None:
            units = replace(units, saliency=blurred(units.saliency))
        return replace(result, image=replace(result.image, saliency=blurred(result.image.saliency)), units=units)


def _weights(count: int, sigma: float) -> NDArray[np.float64]:
    """Return the weight of each input patch (column) in each blurred patch (row), (count, count)."""
    positions = np.arange(count)
    weights = np.exp(-0.5 * ((positions[:, None] - positions[None]) / sigma) ** 2)
    return np.asarray(weights / weights.sum(1, keepdims=True))
