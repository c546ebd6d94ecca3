"""The evaluator: it scores all methods by all measures on a batch of pairs.

Legend: B pairs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch

from m2ib_lightning.evaluation import probes
from m2ib_lightning.evaluation.cosine_curves import kept_points
from m2ib_lightning.evaluation.faithfulness import Faithfulness, areas
from m2ib_lightning.evaluation.randomised import RandomisedModel
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.metrics.map_scores import localisation, structure
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution


class Score(NamedTuple):
    """One score of one pair.

    Attributes:
        method: the method whose map is scored.
        seed: seed of the method.
        measure: name of the measure.
        value: the score; NaN where it is not defined.
    """

    method: str
    seed: int
    measure: str
    value: float


@dataclass(frozen=True)
class PairScores:
    """All scores of one pair.

    Attributes:
        pair: the scored pair.
        scores: one score for each method, seed and measure.
        curves: curves of insertion and deletion by method, then by measure, as ``kept_points`` returns them.
        maps: result of each method whose map can be drawn.
        failures: error of each method that failed on the pair.
        heatmap: file that the maps were drawn to, or None.
        error: reason why no method could explain the pair, or None.
    """

    pair: Pair
    scores: list[Score] = field(default_factory=list)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    maps: dict[str, Attribution] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    heatmap: str | None = None
    error: str | None = None

    def drawn_as(self, file: str) -> PairScores:
        """Return a copy whose ``heatmap`` is the given file."""
        return replace(self, heatmap=file)

    def to_row(self) -> dict[str, Any]:
        """Return the pair's row of the score table."""
        pair = self.pair
        return {
            "key": pair.key,
            "id": pair.id,
            "image": pair.image,
            "caption": pair.caption,
            "scores": [score._asdict() for score in self.scores] if self.error is None else None,
            "failures": [f"{method}: {reason}" for method, reason in self.failures.items()] or None,
            "mask_resized": None if pair.truth is None or pair.truth.mask is None else pair.truth.resized,
            "heatmap": self.heatmap,
            "error": self.error,
            "fingerprint": pair.fingerprint,
            "sentence": pair.sentence,
            "curves": [
                {"method": method, "measure": measure, "cosines": cosines}
                for method, curves in self.curves.items()
                for measure, cosines in curves.items()
            ]
            or None,
        }


class Evaluator:
    """Runs methods on batches and scores their maps, inside ``at_work``.

    The first pairs of the source are probed: each method also runs with other seeds, under noise, on random weights and
    with other captions.

    Args:
        context: the model and the settings that methods are built from.
        methods: names with options, as for ``make_method``.
        groups: names of the groups of measures (``GROUPS``).
        preparer: maker of the model's inputs, for other captions.
        probed: number of pairs to probe.
        seeds: number of seeds of a random method on the probed pairs.

    Raises:
        M2IBError: if a method or an option does not exist.
    """

    def __init__(
        self,
        context: Context,
        methods: Sequence[str],
        groups: Sequence[str],
        preparer: Preparer,
        *,
        probed: int,
        seeds: int,
    ) -> None:
        self.context = context
        self.names = list(methods)
        self.groups = frozenset(groups)
        self.preparer = preparer
        self.probed = probed if "probes" in self.groups else 0
        self.faithfulness = Faithfulness(context.scorer, preparer)
        self.methods = {name: make_method(name, context) for name in methods}
        other_seeds = range(context.seed + 1, context.seed + seeds) if self.probed else ()
        self.reseeded = {seed: self._reseeded(seed) for seed in other_seeds}
        self._randomised: RandomisedModel | None = None
        self._placement: tuple[torch.device, torch.dtype] | None = None

    def _reseeded(self, seed: int) -> dict[str, Method]:
        context = self.context.with_seed(seed)
        return {name: make_method(name, context) for name, method in self.methods.items() if method.random}

    @contextmanager
    def at_work(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        """Move the model to a device and a dtype and freeze it, for calls of the evaluator; restore it on exit."""
        with ExitStack() as stack:
            stack.enter_context(self.context.scorer.at_work(device, dtype))
            for methods in (self.methods, *self.reseeded.values()):
                for method in methods.values():
                    stack.enter_context(method.at_work(device, dtype))
            self._placement = device, dtype
            try:
                yield
            finally:
                self._randomised = self._placement = None

    def __call__(self, batch: PairBatch) -> list[PairScores]:
        """Score a batch; return one result per pair in source order, failed pairs included."""
        if not batch.pairs:
            return batch.complete([], PairScores)
        with torch.autocast(self.context.scorer.device.type, enabled=False):
            return batch.complete((s for part in batch.same_size_parts() for s in self._evaluate(part)), PairScores)

    def _evaluate(self, batch: PairBatch) -> list[PairScores]:
        # The batch has neither failed pairs nor a source order: the methods' results follow the order of the tensors.
        clean = self.context.scorer.clean(batch)
        pair_scores = [PairScores(pair) for pair in batch.pairs]
        for name, method in self.methods.items():
            start = time.perf_counter()
            results = method(batch)
            seconds = (time.perf_counter() - start) / len(batch)
            for scores, result in zip(pair_scores, results, strict=True):
                if result.error is not None:
                    scores.failures[name] = result.error
                elif result.pair.picture is not None:
                    scores.maps[name] = result
            curves: list[dict[str, list[float]]] = [scores.curves.setdefault(name, {}) for scores in pair_scores]
            self._add(pair_scores, name, self.context.seed, self._measure(batch, clean, results, seconds, curves))
        probed = [row for row, pair in enumerate(batch.pairs) if pair.position < self.probed]
        if probed:
            self._probe(batch.some(probed), [pair_scores[row] for row in probed])
        return pair_scores

    def _measure(
        self,
        batch: PairBatch,
        clean: Clean,
        results: Sequence[Attribution],
        seconds: float | None = None,
        curves: Sequence[dict[str, list[float]]] = (),
    ) -> list[dict[str, float]]:
        """Compute the measures that need no further run of the method; a failed pair gets no score.

        The points of the curves are added to ``curves``, one dict a pair, if it is given.
        """
        scores: list[dict[str, float]] = [{} for _ in results]
        good = [row for row, result in enumerate(results) if result.error is None]
        for row in good:
            scores[row] |= {} if seconds is None else {"seconds": seconds}
            scores[row] |= localisation(results[row]) if "localisation" in self.groups else {}
            scores[row] |= structure(results[row]) if "structure" in self.groups else {}
        good_batch = batch if len(good) == len(batch) else batch.some(good)
        good_clean = Clean({m: e[good] for m, e in clean.embeddings.items()}, clean.similarity[good])
        good_results = [results[row] for row in good]
        found: dict[str, list[float]] = {}
        if "confidence" in self.groups and good:
            found |= self.faithfulness.confidence(good_batch, good_clean, good_results)
        if "curves" in self.groups and good:
            by_name = self.faithfulness.cosine_curves(good_batch, good_clean, good_results)
            found |= areas(by_name)
            for name, rows in by_name.items() if curves else ():
                for row, curve in zip(good, rows, strict=True):
                    curves[row][name] = kept_points(curve)
        if "reference" in self.groups and good:
            found |= self.faithfulness.reference(good_batch, good_clean, good_results)
        for measure, values in found.items():
            for row, value in zip(good, values, strict=True):
                scores[row][measure] = value
        return scores

    def _probe(self, batch: PairBatch, pair_scores: list[PairScores]) -> None:
        clean = self.context.scorer.clean(batch)
        before = {name: method(batch) for name, method in self.methods.items()}
        seed = self.context.seed
        for other_seed, methods in self.reseeded.items():
            for name, method in methods.items():
                results = method(batch)
                self._add(pair_scores, name, other_seed, self._measure(batch, clean, results))
                self._add(pair_scores, name, other_seed, probes.correlations(before[name], results, "seeds"))
        for name, method in self.methods.items():
            self._add(pair_scores, name, seed, probes.sensitivity(method, batch, before[name], seed))
            self._add(pair_scores, name, seed, probes.prompts(method, batch, before[name], self.preparer))
        for percent, randomised in self._random_methods():
            for name, method in randomised.items():
                scores = probes.correlations(before[name], method(batch), f"randomised_{percent}")
                self._add(pair_scores, name, seed, scores)

    def _random_methods(self) -> Iterator[tuple[int, dict[str, Method]]]:
        """Yield the methods on a more and more randomised model, with the percentage of random stages."""
        assert self._placement is not None, "call an Evaluator inside `with evaluator.at_work(device, dtype):`"
        if self._randomised is None:
            self._randomised = RandomisedModel(self.context.model, self.context.seed)
        for percent in self._randomised.cascade():
            context = replace(self.context, model=self._randomised.model)
            with ExitStack() as stack:
                methods = {name: make_method(name, context) for name in self.names}
                for method in methods.values():
                    stack.enter_context(method.at_work(*self._placement))
                yield percent, methods

    @staticmethod
    def _add(pair_scores: Sequence[PairScores], method: str, seed: int, values: Sequence[Mapping[str, float]]) -> None:
        for scores, by_measure in zip(pair_scores, values, strict=True):
            scores.scores.extend(Score(method, seed, measure, float(value)) for measure, value in by_measure.items())
