"""All methods and all measures on a batch of pairs: one row per pair.

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
from m2ib_lightning.evaluation.faithfulness import Faithfulness
from m2ib_lightning.evaluation.randomised import RandomisedModel
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.metrics.map_scores import localisation, structure
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.results.attribution import Attribution


class Score(NamedTuple):
    """One number of a pair."""

    method: str
    seed: int
    measure: str
    value: float


@dataclass(frozen=True)
class PairScores:
    """What came of a pair.

    Attributes:
        pair: which.
        scores: all its numbers.
        maps: the results of each method, where they are going to be drawn.
        failures: why a method failed on it, by method.
        heatmap: the file that they were drawn to.
        error: why the pair could not be explained at all.
    """

    pair: Pair
    scores: list[Score] = field(default_factory=list)
    maps: dict[str, Attribution] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    heatmap: str | None = None
    error: str | None = None

    def drawn_as(self, file: str) -> PairScores:
        """The same, drawn to that file."""
        return replace(self, heatmap=file)

    def to_row(self) -> dict[str, Any]:
        """The table row."""
        pair = self.pair
        return {
            "key": pair.key,
            "id": pair.id,
            "image": pair.image,
            "caption": pair.caption,
            "scores": [score._asdict() for score in self.scores] if self.error is None else None,
            "failures": [f"{method}: {why}" for method, why in self.failures.items()] or None,
            "mask_resized": None if pair.truth is None else pair.truth.resized,
            "heatmap": self.heatmap,
            "error": self.error,
        }


class Evaluator:
    """Runs methods on batches and measures their maps, inside ``at_work``.

    The probed pairs (the source's first so many) also have each method run again: with other seeds, under noise, on
    random weights, with other captions.

    Args:
        context: the model, and what methods may use.
        methods: as ``make_method`` takes them.
        groups: of measures (``GROUPS``).
        preparer: of the model.
        probed: how many of the source's first pairs are probed.
        seeds: how many seeds a method that draws at random gets on them.

    Raises:
        M2IBError: on a method that does not exist, or has no such option.
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
        more = range(context.seed + 1, context.seed + seeds) if self.probed else ()
        self.others = [self._seeded(seed) for seed in more]
        self._randomised: RandomisedModel | None = None
        self._home: tuple[torch.device, torch.dtype] | None = None

    def _seeded(self, seed: int) -> dict[str, Method]:
        context = self.context.with_seed(seed)
        return {name: make_method(name, context) for name, method in self.methods.items() if method.random}

    @contextmanager
    def at_work(self, device: torch.device, dtype: torch.dtype) -> Iterator[None]:
        """Inside, the evaluator may be called; the model is frozen, and afterwards as it was."""
        with ExitStack() as stack:
            stack.enter_context(self.context.scorer.at_work(device, dtype))
            for methods in (self.methods, *self.others):
                for method in methods.values():
                    stack.enter_context(method.at_work(device, dtype))
            self._home = device, dtype
            yield
        self._randomised = self._home = None

    def __call__(self, batch: PairBatch) -> list[PairScores]:
        """One result per pair, in source order."""
        if not batch.pairs:
            return batch.complete([], PairScores)
        with torch.autocast(self.context.scorer.device.type, enabled=False):
            return batch.complete(self._evaluate(batch), PairScores)

    def _evaluate(self, batch: PairBatch) -> list[PairScores]:
        batch = PairBatch(batch.pairs, [], batch.inputs["image"], batch.inputs["text"])  # in the tensors' order
        clean = self.context.scorer.clean(batch)
        rows = [PairScores(pair) for pair in batch.pairs]
        for name, method in self.methods.items():
            start = time.perf_counter()
            results = method(batch)
            seconds = (time.perf_counter() - start) / len(batch)
            for row, result in zip(rows, results, strict=True):
                if result.error is not None:
                    row.failures[name] = result.error
                elif result.pair.picture is not None:
                    row.maps[name] = result
            self._note(rows, name, self.context.seed, self._measured(batch, clean, results, seconds))
        probed = [place for place, pair in enumerate(batch.pairs) if pair.position < self.probed]
        if probed:
            self._probe(batch.some(probed), [rows[place] for place in probed])
        return rows

    def _measured(
        self, batch: PairBatch, clean: Clean, results: Sequence[Attribution], seconds: float | None = None
    ) -> list[dict[str, float]]:
        """The measures that need no further run of the method; those of a failed pair are left out."""
        scores: list[dict[str, float]] = [{} for _ in results]
        good = [place for place, result in enumerate(results) if result.error is None]
        kept = [results[place] for place in good]
        for place in good:
            scores[place] |= {} if seconds is None else {"seconds": seconds}
            scores[place] |= localisation(results[place]) if "localisation" in self.groups else {}
            scores[place] |= structure(results[place]) if "structure" in self.groups else {}
        some = batch if len(good) == len(batch) else batch.some(good)
        part = Clean({m: e[good] for m, e in clean.embeddings.items()}, clean.similarity[good])
        for group in ("confidence", "curves", "reference"):
            if group in self.groups and good:
                for measure, values in getattr(self.faithfulness, group)(some, part, kept).items():
                    for place, value in zip(good, values, strict=True):
                        scores[place][measure] = value
        return scores

    def _probe(self, batch: PairBatch, rows: list[PairScores]) -> None:
        clean = self.context.scorer.clean(batch)
        before = {name: method(batch) for name, method in self.methods.items()}
        seed = self.context.seed
        for number, others in enumerate(self.others, 1):
            for name, method in others.items():
                results = method(batch)
                self._note(rows, name, seed + number, self._measured(batch, clean, results))
                self._note(rows, name, seed + number, probes.correlations(before[name], results, "seeds"))
        for name, method in self.methods.items():
            self._note(rows, name, seed, probes.sensitivity(method, batch, before[name], seed))
            self._note(rows, name, seed, probes.prompts(method, batch, before[name], self.preparer))
        for percent, randomised in self._random_methods():
            for name, method in randomised.items():
                scores = probes.correlations(before[name], method(batch), f"randomised_{percent}")
                self._note(rows, name, seed, scores)

    def _random_methods(self) -> Iterator[tuple[int, dict[str, Method]]]:
        """The methods on a model whose weights are random further and further."""
        assert self._home is not None, "call an Evaluator inside `with evaluator.at_work(device, dtype):`"
        if self._randomised is None:
            self._randomised = RandomisedModel(self.context.model, self.context.seed)
        for percent in self._randomised.cascade():
            context = replace(self.context, model=self._randomised.model)
            with ExitStack() as stack:
                methods = {name: make_method(name, context) for name in self.names}
                for method in methods.values():
                    stack.enter_context(method.at_work(*self._home))
                yield percent, methods

    @staticmethod
    def _note(rows: Sequence[PairScores], method: str, seed: int, scores: Sequence[Mapping[str, float]]) -> None:
        for row, named in zip(rows, scores, strict=True):
            row.scores.extend(Score(method, seed, measure, float(value)) for measure, value in named.items())
