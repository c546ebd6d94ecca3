"""What runs in every step: a tower from the cut to the embedding.

Legend: N rows (each a draw of a pair), T tokens, D width, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.blocks import Block
from m2ib_lightning.towers import Hidden, Tower


class Suffix:
    """The blocks after ``layer``, the final norm and the projection, with the blocks' weights made ready once.

    A family that does not say what its blocks are made of (``TowerSpec.parts``) runs its own, under autocast.

    Args:
        tower: of the frozen model.
        layer: where it is cut.
        dtype: of the blocks' arithmetic; None for the type of the weights.
    """

    def __init__(self, tower: Tower, layer: int, dtype: torch.dtype | None = None) -> None:
        self.tower = tower
        self.layer = layer
        self.dtype = tower.dtype if dtype is None else dtype
        parts = tower.spec.parts
        self.blocks = None if parts is None else [Block(parts(b), self.dtype) for b in tower.blocks[layer + 1 :]]

    @torch.no_grad()
    def embed(self, hidden: Hidden) -> Tensor:
        """(B, E): the clean embedding of a batch at the cut."""
        return self(hidden.z, hidden.pooled)

    def __call__(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(N, T, D), and (N,) the token that pooling reads, to (N, E) in the type of the weights."""
        own = self.tower.dtype
        with torch.autocast(hidden.device.type, self.dtype if self.dtype != own else None, enabled=self.dtype != own):
            if self.blocks is None:
                return self.tower.suffix(hidden.to(own), self.layer, pooled).to(own)
            spec = self.tower.spec
            hidden = hidden.to(self.dtype)
            for block in self.blocks if pooled is None else self.blocks[:-1]:
                hidden = block(hidden, spec.causal)
            if pooled is None:  # the head reads every token
                return spec.head(self.tower.model, hidden.to(own)).to(own)
            vector = self.blocks[-1].pooled(hidden, pooled, spec.causal)  # (N, D)
        with torch.autocast(hidden.device.type, enabled=False):
            return spec.head(self.tower.model, vector.to(own))
