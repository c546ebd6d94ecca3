"""What runs in every step: a tower from the cut to the embedding.

Legend: N rows (each a draw of a pair), T tokens, D width, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.encoder.blocks import Block, PooledBlock
from m2ib_lightning.encoder.families.block_parts import BlockParts
from m2ib_lightning.encoder.towers import Hidden, Tower


def make_suffix(tower: Tower, layer: int, dtype: torch.dtype) -> Suffix:
    """The rest of a frozen tower after ``layer``, its arithmetic in ``dtype``: the fast one if all blocks allow it."""
    parts = [tower.spec.parts(block) if tower.spec.parts else None for block in tower.blocks[layer + 1 :]]
    known = [part for part in parts if part is not None]
    return FusedSuffix(tower, layer, dtype, known) if len(known) == len(parts) else Suffix(tower, layer, dtype)


class Suffix:
    """The blocks after ``layer``, the final norm and the projection, as the model has them, under autocast.

    Args:
        tower: of the frozen model.
        layer: where it is cut.
        dtype: of the arithmetic.
    """

    def __init__(self, tower: Tower, layer: int, dtype: torch.dtype) -> None:
        self.tower = tower
        self.layer = layer
        self.dtype = dtype

    @torch.no_grad()
    def embed(self, hidden: Hidden) -> Tensor:
        """(B, E): the clean embedding of a batch at the cut."""
        return self(hidden.z, hidden.pooled)

    def __call__(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """(N, T, D), and (N,) the token that pooling reads, to (N, E) in the type of the weights."""
        own = self.tower.dtype
        with torch.autocast(hidden.device.type, self.dtype, enabled=self.dtype != own):
            return self.tower.suffix(hidden.to(own), self.layer, pooled).to(own)


class FusedSuffix(Suffix):
    """The same with the blocks' weights made ready.

    Only blocks change: the final norm and the projection are the model's, in the type of its weights where they get
    one token, under autocast where they read them all.

    Args:
        tower: of the frozen model.
        layer: where it is cut.
        dtype: of the arithmetic.
        parts: what each block after the cut is made of (``TowerSpec.parts``).
    """

    def __init__(self, tower: Tower, layer: int, dtype: torch.dtype, parts: list[BlockParts]) -> None:
        super().__init__(tower, layer, dtype)
        whole = parts if tower.spec.pooled is None else parts[:-1]
        self.blocks = [Block(part, dtype) for part in whole]
        self.last = None if tower.spec.pooled is None else PooledBlock(parts[-1], dtype)

    @override
    def __call__(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        spec, own = self.tower.spec, self.tower.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.dtype)
            for block in self.blocks:
                hidden = block(hidden, spec.causal)
            if self.last is not None:
                assert pooled is not None
                vector = self.last.pooled(hidden, pooled, spec.causal)  # (N, D)
                return spec.head(self.tower.model, vector.to(own))
        with torch.autocast(hidden.device.type, self.dtype, enabled=self.dtype != own):
            return spec.head(self.tower.model, hidden.to(own)).to(own)
