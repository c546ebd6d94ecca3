"""Turns the traces of a batch into one result per pair."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.towers import Tower
from m2ib_lightning.m2ib.optimise import Trace
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import NOT_FINITE, Attribution, TowerAttribution


def batch_results(
    batch: PairBatch, similarity: Tensor, traces: dict[Modality, Trace], image_tower: Tower
) -> Iterator[Attribution]:
    """Yield the result of each readable pair. A pair whose numbers are not finite gets an error.

    Args:
        batch: the explained pairs.
        similarity: (B,) clean cosines.
        traces: record of each tower's optimisation; without text if the images were explained against embeddings.
        image_tower: the image tower, which knows the grid of patches.
    """
    clean = similarity.tolist()
    image, text = traces["image"].cpu(), traces["text"].cpu() if "text" in traces else None
    spec = image_tower.spec
    assert spec.grid is not None
    grid = spec.grid(image_tower.model, batch.inputs["image"])
    for index, pair in enumerate(batch.pairs):
        patches = _tower_result(image.saliency[index, spec.prefix_tokens :].reshape(grid), image, index)
        tokens = None if text is None else _tower_result(text.saliency[index, pair.token_positions], text, index)
        result = Attribution(pair, clean[index], patches, tokens)
        yield result if _is_finite(result) else Attribution(pair, error=NOT_FINITE)


def _tower_result(saliency: Tensor, trace: Trace, index: int) -> TowerAttribution:
    curves = (trace.loss[:, index], trace.information[:, index], trace.similarity[:, index])
    return TowerAttribution(saliency.numpy(), *(curve.numpy() for curve in curves))


def _is_finite(result: Attribution) -> bool:
    parts = [part for part in (result.image, result.text) if part is not None]
    return all(np.isfinite(array).all() for part in parts for array in (part.saliency, part.loss) if array is not None)
