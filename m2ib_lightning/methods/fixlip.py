"""FIxLIP: weighted Banzhaf interactions of words and patches.

Legend: B pairs, T tokens, P patches, E embedding size, m masks, n players (words, or patches).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.encoder.patches import spread
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods.by_name import register_method
from m2ib_lightning.methods.coalitions import Coalitions, all_coalitions, drawn_coalitions
from m2ib_lightning.methods.interactions import InteractionMethod
from m2ib_lightning.methods.method import Context, at_least
from m2ib_lightning.methods.scorer import Clean, Words
from m2ib_lightning.pairs.pair import PairBatch


class FIxLIP(InteractionMethod):
    r"""FIxLIP (Baniecki et al., NeurIPS 2025): weighted Banzhaf interactions of words and patches.

    The players are the patches and the words. The value of a coalition M is the cosine of the picture and the caption
    without all other players, which are removed as in RISE. The interactions :math:`e_{it}` are those of the second-
    order game

    .. math::
        \hat\nu(M) = e_0 + \sum_{i \in M} e_i + \sum_{t \in M} e_t + \sum_{i, t \in M} e_{it}

    that is nearest to the cosine in the mean square, where each player is in M with probability p. The paper's
    estimator draws masks of the picture and masks of the caption, and pairs each with each: ``samples + captions``
    passes through a tower give ``samples * captions`` values. Interactions within a tower are left out of the
    regression, which is the paper's smaller basis; they do not change the expected :math:`e_{it}`.

    All values form the matrix :math:`\nu = U V^\top` of unit embeddings of the m altered pictures and captions, and the
    regression's matrix is a Kronecker product. So the coefficients are :math:`(X_I^+ U) (X_T^+ V)^\top`, two small
    regressions, with one column of ones and one column per player in :math:`X`.

    Args:
        context: the model and the settings to build on.
        samples: number of masks of the picture; 0 for the larger of 500 and five per unknown.
        captions: number of masks of the caption; 0 for the larger of 256 and five per unknown. If there are no more
            subsets of the words than that, each is taken once, by its probability.
        p: probability that a player stays, above 0 and below 1.
    """

    random = True

    _PICTURES, _CAPTIONS, _PER_UNKNOWN = 500, 256, 5

    def __init__(self, context: Context, *, samples: int = 0, captions: int = 0, p: float = 0.5) -> None:
        super().__init__(context)
        self.samples = at_least("samples", samples, 0)
        self.captions = at_least("captions", captions, 0)
        if not 0 < p < 1:
            raise M2IBError(f"p must be a probability above 0 and below 1, got {p}")
        self.p = float(p)
        self._coalitions: dict[tuple[str, int], Coalitions] = {}

    @override
    @torch.no_grad()
    def interactions(self, batch: PairBatch, clean: Clean) -> Tensor:
        pictures = self._of_pictures(batch)  # (B, P, E)
        if batch.targets is not None:
            return F.normalize(clean.embeddings["text"], dim=-1)[:, None] @ pictures.mT
        return self._of_captions(self.scorer.words(batch)) @ pictures.mT

    def coalitions(self, name: str, players: int) -> Coalitions:
        """Return the masks of pictures (``samples``) or captions (``captions``) with this number of players."""
        if (name, players) not in self._coalitions:
            given, default = (self.samples, self._PICTURES) if name == "samples" else (self.captions, self._CAPTIONS)
            count = given or max(default, self._PER_UNKNOWN * (players + 1))
            if name == "captions" and 2**players <= count:
                made = all_coalitions(players, self.p)
            elif count <= players:
                raise M2IBError(
                    f"fixlip:{name}={count} is too few for {players} players: the regression has {players + 1} "
                    f"unknowns. Give at least {players + 1}, or leave it out"
                )
            else:
                made = drawn_coalitions(players, count, self.p, [self.context.seed, name == "captions"])
            self._coalitions[name, players] = made
        return self._coalitions[name, players]

    def _of_pictures(self, batch: PairBatch) -> Tensor:
        """Return the effect (B, P, E) of each patch on the picture's unit embedding."""
        pixels, grid = self.scorer.pixels(batch), self.scorer.grid(batch)
        size = (pixels.shape[-2], pixels.shape[-1])
        coalitions = self.coalitions("samples", grid[0] * grid[1])
        effects = []
        for picture in pixels:
            chunks = coalitions.masks.to(picture).unflatten(1, grid).split(self.scorer.at_a_time("image"))
            embeddings = [self.scorer.images(picture * spread(chunk, size)[:, None]) for chunk in chunks]
            effects.append(coalitions.effects(F.normalize(torch.cat(embeddings), dim=-1)))
        return torch.stack(effects)

    def _of_captions(self, words: Words) -> Tensor:
        """Return the effect (B, T, E) of each word on the caption's unit embedding."""
        rows = []
        for row, length in enumerate(words.hidden.layout.lengths()):
            alone = words.one(row, length)
            positions = words.words[row].nonzero()[:, 0]
            coalitions = self.coalitions("captions", len(positions))
            stays = alone.absent.new_ones(len(coalitions.masks), 1, length)
            stays[:, 0, positions] = coalitions.masks.to(stays)
            layout = alone.hidden.layout.repeated(len(stays))
            effects = coalitions.effects(F.normalize(self.scorer.captions(alone.keep(stays)[:, 0], layout), dim=-1))
            of_tokens = effects.new_zeros(words.words.shape[1], effects.shape[1])
            of_tokens[positions] = effects
            rows.append(of_tokens)
        return torch.stack(rows)


register_method("fixlip", FIxLIP)
