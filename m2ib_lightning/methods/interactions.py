"""The base of second-order methods, which say how much each word and each patch matter together.

Legend: B pairs, T tokens, P patches.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from torch import Tensor
from typing_extensions import override

from m2ib_lightning.methods.method import SaliencyMethod
from m2ib_lightning.methods.scorer import Clean
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from m2ib_lightning.results.unread import token_saliency


class InteractionMethod(SaliencyMethod):
    """A method that gives each word and each patch one number: how much they add to the cosine together.

    A subclass defines ``interactions``. The image's map is their sum over the words, and the caption's map their sum
    over the patches.
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
        for row, (pair, matrix) in enumerate(zip(batch.pairs, matrices, strict=True)):
            image = TowerAttribution(matrix.sum(0).reshape(grid).numpy())
            text = None
            if read is not None:
                pair, tokens = token_saliency(pair, matrix.sum(1).numpy(), read[row])
                text = TowerAttribution(tokens)
            yield self.checked(Attribution(pair, float(clean.similarity[row]), image, text, unit=""))
