"""Sorts the maps of a batch's units by pair and unit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from m2ib_lightning.m2ib.unit_targets import UnitTargets
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.unit_maps import UnitMaps


def unit_results(
    batch: PairBatch,
    targets: UnitTargets | None,
    shares: Tensor | None,
    grids: Sequence[tuple[int, int]],
    saliency: Tensor,
) -> list[UnitMaps | None]:
    """Return the unit maps of each pair; None for each if the batch is not grounded.

    The map of a unit that does not change the embedding is zeros, whatever the method made of it.

    Args:
        batch: the pairs.
        targets: targets of the N units that were explained; None if there were none.
        shares: (N,) share of the clean cosine that each of these units carries.
        grids: grid of patches (height, width) of each pair.
        saliency: (N, patches) saliency of each unit; unused patches are at the end.
    """
    if batch.units is None:
        return [None] * len(batch)
    maps = [np.zeros((len(pair.units), *grid), np.float32) for pair, grid in zip(batch.pairs, grids, strict=True)]
    carried = [np.zeros(len(pair.units), np.float32) for pair in batch.pairs]
    if targets is not None and shares is not None:
        shown = saliency.cpu().masked_fill(~targets.changed.cpu()[:, None], 0)
        for n, (row, unit) in enumerate(batch.units.places):
            maps[row][unit] = shown[n, : math.prod(grids[row])].reshape(grids[row]).numpy()
            carried[row][unit] = float(shares[n])
    read = set(batch.units.places)
    return [
        UnitMaps(maps[row], carried[row], tuple(k for k in range(len(pair.units)) if (row, k) not in read))
        for row, pair in enumerate(batch.pairs)
    ]
