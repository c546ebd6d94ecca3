"""The suffix of a tower: the part from the cut to the embedding, which runs in every optimiser step.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, E embedding size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.encoder.blocks import Block, PooledBlock
from m2ib_lightning.encoder.families.block_parts import BlockParts
from m2ib_lightning.encoder.layout import Hidden, Layout
from m2ib_lightning.encoder.towers import Tower


def make_suffix(tower: Tower, layer: int, dtype: torch.dtype) -> Suffix:
    """Return the suffix of a frozen tower after ``layer``, computed in ``dtype``.

    The suffix is fused if all its blocks allow it.
    """
    parts = _parts(tower, layer)
    return Suffix(tower, layer, dtype) if parts is None else FusedSuffix(tower, layer, dtype, parts)


def describe_blocks(tower: Tower, layer: int) -> str:
    """Return ``fused``, or which of the model's own blocks run after ``layer``."""
    if _parts(tower, layer) is not None:
        return "fused"
    names = sorted({type(block).__name__ for block in tower.blocks[layer + 1 :]})
    return f"the model's own ({', '.join(names)})"


def _parts(tower: Tower, layer: int) -> list[BlockParts] | None:
    """Return the parts of each block after ``layer``, or None if the parts of one are unknown."""
    known = tower.spec.parts
    parts = [None if known is None else known(block) for block in tower.blocks[layer + 1 :]]
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


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
        return self(hidden.z, hidden.layout)

    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Map hidden states (N, T, D) and their layout to embeddings (N, E) in the dtype of the weights."""
        weight_dtype = self.tower.dtype
        with torch.autocast(hidden.device.type, self.dtype, enabled=self.dtype != weight_dtype):
            return self.tower.suffix(hidden.to(weight_dtype), self.layer, layout).to(weight_dtype)


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
        all_tokens = parts if tower.spec.pool is not None else parts[:-1]
        self.blocks = [Block(part, dtype) for part in all_tokens]
        self.last = PooledBlock(parts[-1], dtype) if tower.spec.pool is None else None

    @override
    def __call__(self, hidden: Tensor, layout: Layout) -> Tensor:
        spec, weight_dtype = self.tower.spec, self.tower.dtype
        # Behind a causal mask, what is read lies before the padding: no mask of the padding is needed.
        read = layout.attended if layout.padded and not spec.causal else None
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.to(self.dtype)
            for block in self.blocks:
                hidden = block(hidden, spec.causal, read)
            if self.last is not None:
                assert layout.pooled is not None
                vector = self.last.pooled(hidden, layout.pooled, spec.causal, read)  # (N, D)
                return spec.head(self.tower.model, vector.to(weight_dtype))
        with torch.autocast(hidden.device.type, self.dtype, enabled=self.dtype != weight_dtype):
            return self.tower.finish(hidden.to(weight_dtype), layout).to(weight_dtype)
