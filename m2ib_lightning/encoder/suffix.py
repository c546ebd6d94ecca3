"""The suffix of a tower: the part from the cut to the embedding, which runs in every optimiser step.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.encoder.blocks import Block, PooledBlock
from m2ib_lightning.encoder.families.block_parts import BlockParts
from m2ib_lightning.encoder.towers import Hidden, Tower


def make_suffix(tower: Tower, layer: int, dtype: torch.dtype) -> Suffix:
    """Return the suffix of a frozen tower after ``layer``, computed in ``dtype``.

    The suffix is fused if all its blocks allow it.
    """
    blocks = tower.blocks[layer + 1 :]
    parts = [part for block in blocks if tower.spec.parts and (part := tower.spec.parts(block)) is not None]
    return FusedSuffix(tower, layer, dtype, parts) if len(parts) == len(blocks) else Suffix(tower, layer, dtype)


class Suffix:
    """Runs the model's own blocks after ``layer``, then its final norm and projection, under autocast.

    Args:
        tower: tower of the frozen model.
        layer: index of the block after which the tower is cut.
        dtype: compute dtype.
    """

    def __init__(self, tower: Tower, layer: int, dtype: torch.dtype) -> None:
        self.tower = tower
        self.layer = layer
        self.dtype = dtype

    @torch.no_grad()
    def embed(self, hidden: Hidden) -> Tensor:
        """Return the clean embeddings (B, E) of a batch, from its hidden states at the cut."""
        return self(hidden.z, hidden.pooled)

    def __call__(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        """Map hidden states (N, T, D) and pooled positions (N,) to embeddings (N, E) in the dtype of the weights."""
        weight_dtype = self.tower.dtype
        with torch.autocast(hidden.device.type, self.dtype, enabled=self.dtype != weight_dtype):
            return self.tower.suffix(hidden.to(weight_dtype), self.layer, pooled).to(weight_dtype)


class FusedSuffix(Suffix):
    """A suffix with fused blocks. It gives the same embeddings as ``Suffix``, up to rounding.

    The final norm and the projection are the model's own. They run in the dtype of the weights if pooling reads one
    token, else under autocast.

    Args:
        tower: tower of the frozen model.
        layer: index of the block after which the tower is cut.
        dtype: compute dtype.
        parts: parts of each block after the cut (``TowerSpec.parts``).
    """

    def __init__(self, tower: Tower, layer: int, dtype: torch.dtype, parts: list[BlockParts]) -> None:
        super().__init__(tower, layer, dtype)
        all_tokens = parts if tower.spec.pooled is None else parts[:-1]
        self.blocks = [Block(part, dtype) for part in all_tokens]
        self.last = None if tower.spec.pooled is None else PooledBlock(parts[-1], dtype)

    @override
    def __call__(self, hidden: Tensor, pooled: Tensor | None) -> Tensor:
        spec, weight_dtype = self.tower.spec, self.tower.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.dtype)
            for block in self.blocks:
                hidden = block(hidden, spec.causal)
            if self.last is not None:
                assert pooled is not None
                vector = self.last.pooled(hidden, pooled, spec.causal)  # (N, D)
                return spec.head(self.tower.model, vector.to(weight_dtype))
        with torch.autocast(hidden.device.type, self.dtype, enabled=self.dtype != weight_dtype):
            return spec.head(self.tower.model, hidden.to(weight_dtype)).to(weight_dtype)
