"""Turns the traces of a batch into one result per pair."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.towers import Tower
from m2ib_lightning.m2ib.optimise import Trace
from m2ib_lightning.m2ib.path import ONE_BETA, Path, mean_over_path, read_path
from m2ib_lightning.m2ib.unit_results import unit_results
from m2ib_lightning.m2ib.unit_targets import UnitTargets
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import NOT_FINITE, Attribution, TowerAttribution
from m2ib_lightning.results.unread import token_saliency


def batch_results(
    batch: PairBatch,
    similarity: Tensor,
    traces: dict[Modality, Trace],
    towers: Mapping[Modality, Tower],
    units: UnitTargets | None = None,
    shares: Tensor | None = None,
    path: Path = ONE_BETA,
) -> Iterator[Attribution]:
    """Yield the result of each readable pair. A pair whose numbers are not finite gets an error.

    Args:
        batch: the explained pairs.
        similarity: (B,) clean cosines.
        traces: record of each tower's optimisation; without text if the images were explained against embeddings.
        towers: the image tower, which knows the grid of patches, and the text tower, which knows what it reads.
        units: targets of the units of the batch, whose rows follow those of the pairs in the image's trace.
        shares: (N,) share of the clean cosine that each of these units carries.
        path: how the image's map is read. The curves of an image are the means over its path.
    """
    clean = similarity.tolist()
    text = traces["text"].cpu() if "text" in traces else None
    start = towers["image"].spec.prefix_tokens
    read = None if text is None else towers["text"].reads(batch.inputs["text"]).cpu().numpy()
    grids = towers["image"].grids(batch.inputs["image"])
    unit_grids = [] if units is None else [grids[row] for row in units.rows.tolist()]
    image = _read(traces["image"].cpu(), start, [*grids, *unit_grids], path)
    unit_maps = unit_results(batch, units, shares, grids, image.saliency[len(batch) :])
    for index, (pair, grid) in enumerate(zip(batch.pairs, grids, strict=True)):
        cells = image.saliency[index, : math.prod(grid)]
        patches = _tower_result(cells.reshape(grid).numpy(), image, index)
        tokens = None
        if text is not None and read is not None:
            pair, saliency = token_saliency(pair, text.saliency[index].numpy(), read[index])
            tokens = _tower_result(saliency, text, index)
        result = Attribution(pair, clean[index], patches, tokens, image_unit=path.unit, units=unit_maps[index])
        yield result if _is_finite(result) else Attribution(pair, error=NOT_FINITE)


def _read(trace: Trace, start: int, grids: Sequence[tuple[int, int]], path: Path) -> Trace:
    """Return the record of each row of the image, with the saliency of its patches; a path becomes one row."""
    curves = (mean_over_path(curve, path) for curve in (trace.loss, trace.information, trace.similarity))
    return Trace(read_path(trace.saliency[:, start:], grids, path), *curves)


def _tower_result(saliency: NDArray[np.floating], trace: Trace, index: int) -> TowerAttribution:
    curves = (trace.loss[:, index], trace.information[:, index], trace.similarity[:, index])
    return TowerAttribution(saliency, *(curve.numpy() for curve in curves))


def _is_finite(result: Attribution) -> bool:
    parts = [part for part in (result.image, result.text) if part is not None]
    arrays = [array for part in parts for array in (part.saliency, part.loss) if array is not None]
    arrays += [] if result.units is None else [result.units.saliency, result.units.shares]
    return all(np.isfinite(array).all() for array in arrays)
