"""The interface of attribution methods: a batch of pairs in, one result with two maps per pair out.

Legend: B pairs, T tokens.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.out_of_memory import DOES_NOT_FIT, is_out_of_memory
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.m2ib.unit_results import unit_results
from m2ib_lightning.m2ib.unit_targets import unit_targets
from m2ib_lightning.methods.scorer import Clean, Scorer
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import NOT_FINITE, Attribution, TowerAttribution
from m2ib_lightning.results.unit_maps import UnitMaps
from m2ib_lightning.results.unread import token_saliency


@dataclass(frozen=True)
class Context:
    """The model and the settings that a method is built from.

    Attributes:
        model: the model to explain.
        settings: bottleneck settings with resolved layers, for ``m2ib`` and for methods that read the same layer.
        statistics: statistics of the towers with ``prior="data"``.
        seed: seed of all random draws.
        compile: whether ``m2ib`` compiles its loop.
        scorer: runner of the model on altered inputs, shared by all methods of this context and by all contexts that
            differ only in their seed.
    """

    model: LoadedModel
    settings: BottleneckSettings
    statistics: Statistics = field(default_factory=Statistics)
    seed: int = 0
    compile: bool = False
    scorer: Scorer = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "scorer", Scorer(self.model.encoder))

    def with_seed(self, seed: int) -> Context:
        """Return a copy with another seed and the same scorer."""
        other = replace(self, seed=seed)
        object.__setattr__(other, "scorer", self.scorer)
        return other


class Method(ABC):
    """An attribution method: for each pair, one number per patch and one per token of the caption.

    Higher numbers are more relevant. A subclass defines ``__call__`` and takes its options as keyword-only arguments.
    A method that makes the two maps one after the other derives from ``SaliencyMethod``.

    Args:
        context: the model and the settings to build on.

    Attributes:
        random: whether the maps depend on the seed.
        pair_specific: whether a map depends on the other half of the pair.
        trained: whether the method needs trained weights that most model folders lack; such a method is compared only
            where it is named.
    """

    random: ClassVar[bool] = False
    pair_specific: ClassVar[bool] = True
    trained: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context
        self.scorer = context.scorer

    def at_work(self, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Move the model to a device and a dtype and freeze it, for calls of the method; restore it on exit."""
        return self.scorer.at_work(device, dtype)

    @abstractmethod
    def __call__(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch on the model's device, inside ``at_work``.

        Returns:
            One result per pair in source order, failed pairs included.
        """

    @staticmethod
    def checked(result: Attribution) -> Attribution:
        """Return the result, or a failed one if its saliency is not finite."""
        parts = [part for part in (result.image, result.text, result.units) if part is not None]
        finite = all(np.isfinite(part.saliency).all() for part in parts)
        return result if finite else Attribution(result.pair, error=NOT_FINITE)


class SaliencyMethod(Method):
    """A method that makes the image's map and the caption's map one after the other.

    A subclass defines ``image_saliency`` and ``text_saliency``.
    """

    @override
    def __call__(self, batch: PairBatch) -> list[Attribution]:
        if not batch.pairs:
            return batch.complete([], Attribution)
        with torch.autocast(self.scorer.device.type, enabled=False):
            parts = batch.same_size_parts()
            return batch.complete((r for part in parts for r in self._halve_until_it_fits(part)), Attribution)

    @abstractmethod
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        """Return the images' maps, (B, grid_h, grid_w) or (B, patches)."""

    @abstractmethod
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        """Return the captions' maps, (B, T) over all tokens that the tower gets; only the caption's own are read."""

    def _halve_until_it_fits(self, batch: PairBatch) -> list[Attribution]:
        """Explain a batch, in halves where memory runs out; a pair that does not fit alone fails alone."""
        try:
            return list(self._explain(batch))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
        # Not in the except clause: there the traceback holds the attempt's tensors.
        if self.scorer.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(batch) == 1:
            return [Attribution(batch.pairs[0], error=DOES_NOT_FIT)]
        half = len(batch) // 2
        parts = (range(half), range(half, len(batch)))
        return [result for part in parts for result in self._halve_until_it_fits(batch.some(list(part)))]

    def _explain(self, batch: PairBatch) -> Iterator[Attribution]:
        clean = self.scorer.clean(batch)
        grid = self.scorer.grid(batch)
        images = self.image_saliency(batch, clean).detach().cpu().reshape(-1, *grid).numpy()
        texts = read = None
        if batch.targets is None:
            texts = self.text_saliency(batch, clean).detach().cpu().numpy()
            read = self.scorer.reads(batch.inputs["text"]).cpu().numpy()
        units = self._unit_maps(batch, clean, grid)
        for row, pair in enumerate(batch.pairs):
            text = None
            if texts is not None and read is not None:
                pair, tokens = token_saliency(pair, texts[row], read[row])
                text = TowerAttribution(tokens)
            image, similarity = TowerAttribution(images[row]), float(clean.similarity[row])
            yield self.checked(Attribution(pair, similarity, image, text, unit="", units=units[row]))

    def _unit_maps(self, batch: PairBatch, clean: Clean, grid: tuple[int, int]) -> list[UnitMaps | None]:
        """Explain the picture of each unit against the unit's target, as if it were a caption's embedding."""
        targets = unit_targets(batch, self.scorer.encoder.towers["text"])
        shares, saliency = None, torch.empty(0)
        if targets is not None:
            images = clean.embeddings["image"]
            shares, alone = targets.shares(images), batch.for_targets(targets.rows.tolist(), targets.direction)
            unit_clean = Clean({"image": images[targets.rows], "text": targets.direction}, shares)
            saliency = self.image_saliency(alone, unit_clean).detach().reshape(len(alone), -1)
        return unit_results(batch, targets, shares, [grid] * len(batch), saliency)


def at_least(name: str, value: int, least: int) -> int:
    """Return the value of an option that has a lower bound.

    Raises:
        M2IBError: if the value is smaller than ``least``.
    """
    if value < least:
        raise M2IBError(f"{name} must be at least {least}, got {value}")
    return value
