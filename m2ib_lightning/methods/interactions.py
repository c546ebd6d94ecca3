"""The base of second-order methods, which say how much each word and each patch matter together.

Legend: B pairs, T tokens, P patches, N units.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.m2ib.unit_results import unit_results
from m2ib_lightning.m2ib.unit_targets import unit_targets
from m2ib_lightning.methods.method import SaliencyMethod
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from m2ib_lightning.results.unit_maps import UnitMaps
from m2ib_lightning.results.unread import token_saliency


class InteractionMethod(SaliencyMethod):
    """A method that gives each word and each patch one number: how much they add to the cosine together.

    A subclass defines ``interactions``. The image's map is their sum over the words, the caption's map their sum over
    the patches, and the map of a unit their sum over the unit's words. So units cost nothing. With another target
    than ``difference``, a unit is explained as a caption of its own, like in other methods.
    """

    @abstractmethod
    def interactions(self, batch: PairBatch, clean: Clean) -> Tensor:
        """Return the interactions (B, T, P) of all tokens that the tower gets and all patches.

        Tokens that are no words of the caption have zeros. If the batch has targets in place of captions, there is one
        token: the target.
        """

    @override
    def image_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        return self.interactions(batch, clean).sum(1)

    @override
    def text_saliency(self, batch: PairBatch, clean: Clean) -> Tensor:
        return self.interactions(batch, clean).sum(2)

    @override
    def _explain(self, batch: PairBatch) -> Iterator[Attribution]:
        clean = self.scorer.clean(batch)
        grid = self.scorer.grid(batch)
        matrices = self.interactions(batch, clean).detach().cpu()
        read = None if batch.targets is not None else self.scorer.reads(batch.inputs["text"]).cpu().numpy()
        units = self._units(batch, clean, grid, matrices)
        for row, (pair, matrix) in enumerate(zip(batch.pairs, matrices, strict=True)):
            image, similarity = TowerAttribution(matrix.sum(0).reshape(grid).numpy()), float(clean.similarity[row])
            text = None
            if read is not None:
                pair, tokens = token_saliency(pair, matrix.sum(1).numpy(), read[row])
                text = TowerAttribution(tokens)
            yield self.checked(Attribution(pair, similarity, image, text, unit="", units=units[row]))

    def _units(self, batch: PairBatch, clean: Clean, grid: tuple[int, int], matrices: Tensor) -> list[UnitMaps | None]:
        """Sum the interactions (B, T, P) over the words of each unit."""
        if batch.units is None or batch.units.target != "difference":
            return self._unit_maps(batch, clean, grid)
        targets = unit_targets(batch, self.scorer.encoder.towers["text"])
        shares = None if targets is None else targets.shares(clean.embeddings["image"])
        maps = [matrices[row, words_of(batch.pairs[row], unit)].sum(0) for row, unit in batch.units.places]
        return unit_results(batch, targets, shares, [grid] * len(batch), torch.stack(maps) if maps else matrices[:, 0])


def words_of(pair: Pair, index: int) -> list[int]:
    """Return the positions of the tokens that overlap a unit of a pair, in the sequence that the tower reads."""
    unit = pair.units[index]
    places = zip(pair.token_positions, pair.token_offsets, strict=True)
    return [position for position, (start, end) in places if start < unit.end and unit.start < end]
