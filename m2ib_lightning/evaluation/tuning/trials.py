"""A trial: M2IB with one setting of each tower, on the same pairs as all other trials.

Legend: N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict

import numpy as np
import torch

from m2ib_lightning.evaluation.faithfulness import Faithfulness
from m2ib_lightning.evaluation.probes import correlation, with_captions
from m2ib_lightning.evaluation.tuning.objectives import Measures
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods import Context
from m2ib_lightning.methods.m2ib import M2IB
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.metrics.map_scores import localisation
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.truth import OtherCaption
from m2ib_lightning.results.attribution import Attribution, Floats


class Trials:
    """Runs trials on one set of pairs, inside ``at_work``.

    Args:
        context: the model, the priors of every layer that is tried, and the seed.
        preparer: maker of the model's inputs, for other captions.
        batches: the pairs, without failed ones.

    Attributes:
        pairs: the N pairs, in the order of the measures.
        failures: error of each pair that a trial could not explain, by key.
    """

    def __init__(self, context: Context, preparer: Preparer, batches: Sequence[PairBatch]) -> None:
        self.context = context
        self.preparer = preparer
        self.batches = batches
        self.pairs = [pair for batch in batches for pair in batch.pairs]
        self.partners = partners_of(self.pairs)
        self.failures: dict[str, str] = {}
        self._faithfulness = Faithfulness(context.scorer, preparer)
        self._placement: tuple[torch.device, torch.dtype] | None = None
        self._clean: dict[int, Clean] = {}

    @contextmanager
    def at_work(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        """Move the model to a device and a dtype and freeze it, for trials; restore it on exit."""
        with self.context.scorer.at_work(device, dtype):
            self._placement, self._clean = (device, dtype), {}
            try:
                yield
            finally:
                self._placement, self._clean = None, {}

    def run(self, settings: BottleneckSettings, *, curves: bool = True) -> Measures:
        """Explain the pairs with the given settings, and measure their maps.

        Args:
            settings: settings with layers resolved.
            curves: whether to measure faithfulness and the change with other inputs, which need no ground truth.

        Returns:
            ``image_ap``, ``image_pointing``, ``image_iou`` and ``text_auroc`` where there is ground truth; with
            ``curves`` also the insertion and deletion areas of ``Faithfulness.curves``, ``image_same`` (correlation of
            the picture's map with its map for another caption) and ``text_same`` (of the caption's map with its map
            for another picture).
        """
        assert self._placement is not None, "call Trials inside `with trials.at_work(device, dtype):`"
        method = M2IB(self.context, **asdict(settings))
        measures: Measures = {name: np.full(len(self.pairs), math.nan) for name in ("image_ap", "text_auroc")}
        results: list[Attribution] = []
        prompted: dict[int, Attribution] = {}
        with method.at_work(*self._placement):
            for number, batch in enumerate(self.batches):
                first = len(results)
                on_device = batch.to(self._placement[0])
                explained = method(on_device)
                results += explained
                for row, result in enumerate(explained):
                    if result.error is not None:
                        self.failures[result.pair.key] = result.error
                    else:
                        _put(measures, len(self.pairs), first + row, localisation(result))
                if curves:
                    self._measure_curves(measures, number, first, on_device, explained)
                    prompted |= self._prompted(method, first, on_device)
        if curves:
            for row, scores in self._changes(results, prompted):
                _put(measures, len(self.pairs), row, scores)
        return measures

    def _measure_curves(
        self, measures: Measures, number: int, first: int, batch: PairBatch, results: Sequence[Attribution]
    ) -> None:
        if number not in self._clean:
            self._clean[number] = self.context.scorer.clean(batch)
        clean = self._clean[number]
        good = [row for row, result in enumerate(results) if result.error is None]
        if not good:
            return
        clean = Clean({m: e[good] for m, e in clean.embeddings.items()}, clean.similarity[good])
        with torch.autocast(batch.inputs["image"]["pixel_values"].device.type, enabled=False):
            areas = self._faithfulness.curves(batch.some(good), clean, [results[row] for row in good])
        for name, values in areas.items():
            for row, value in zip(good, values, strict=True):
                _put(measures, len(self.pairs), first + row, {name: value})

    def _prompted(self, method: M2IB, first: int, batch: PairBatch) -> dict[int, Attribution]:
        """Explain the pictures of a batch with the captions of their partners; return the results by row."""
        others = []
        for row in range(len(batch)):
            partner = self.partners[first + row]
            if partner is not None:
                others.append((row, OtherCaption("other", self.pairs[partner].caption or "")))
        prompted, readable = with_captions(batch, others, self.preparer)
        results = method(prompted) if readable else []
        return {first + row: result for (row, _), result in zip(readable, results, strict=True)}

    def _changes(
        self, results: Sequence[Attribution], prompted: dict[int, Attribution]
    ) -> Iterator[tuple[int, dict[str, float]]]:
        for row, other in prompted.items():
            partner = self.partners[row]
            assert partner is not None
            if other.error is None and results[row].error is None and results[partner].error is None:
                yield (
                    row,
                    {
                        "image_same": _same(results[row].image_saliency, other.image_saliency),
                        "text_same": _same(results[partner].text_saliency, other.text_saliency),
                    },
                )


def partners_of(pairs: Sequence[Pair]) -> list[int | None]:
    """Return for each pair the index of a pair with another picture and another caption, or None.

    The search begins half of the pairs further on, so the partner depends on the pairs alone.
    """
    partners: list[int | None] = []
    for index, pair in enumerate(pairs):
        others = ((index + len(pairs) // 2 + step) % len(pairs) for step in range(len(pairs)))
        partners.append(next((k for k in others if _differ(pair, pairs[k])), None))
    return partners


def _differ(one: Pair, other: Pair) -> bool:
    return one.image != other.image and one.caption != other.caption


def _same(before: Floats, after: Floats) -> float:
    """Return Spearman's correlation of two maps, from 0: a constant map counts as unchanged, a single token as NaN."""
    if before.size < 2:
        return math.nan
    if before.min() == before.max():
        return 1.0
    return max(0.0, correlation(before, after))


def _put(measures: Measures, pairs: int, row: int, scores: dict[str, float]) -> None:
    for name, value in scores.items():
        measures.setdefault(name, np.full(pairs, math.nan))[row] = value
