"""A tower's forward pass with its attention exposed, for the methods that read attention.

Legend: B pairs, Q queries, T tokens, D width, H heads, d = D / H, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.encoder.families.block_parts import BlockParts, PoolingParts
from m2ib_lightning.encoder.layout import Hidden, Layout
from m2ib_lightning.encoder.towers import Tower
from m2ib_lightning.errors import M2IBError


@dataclass(frozen=True)
class Attention:
    """The values of one attention layer in one forward pass; Q queries read T tokens.

    Attributes:
        query: (B, Q, D), projected queries.
        key: (B, T, D), projected keys.
        value: (B, T, D), projected values.
        weights: (B, H, Q, T), attention after the softmax.
        output: (B, Q, D), weighted values before the output projection.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    weights: Tensor
    output: Tensor


@dataclass(frozen=True)
class Traced:
    """A tower's forward pass with the attention of every layer.

    Attributes:
        layers: attention of each block; where all tokens are pooled, the pooling layer (Q = 1) comes last.
        embedding: (B, E), the tower's output.
        pooled: (B,), index of the token that pooling reads after the last block; None where a pooling layer comes last.
    """

    layers: list[Attention]
    embedding: Tensor
    pooled: Tensor | None

    def read(self, per_query: Tensor) -> Tensor:
        """Select the pooled query, which the embedding is computed from: (B, Q, ...) to (B, ...)."""
        if self.pooled is None:
            return per_query[:, 0]
        return per_query[torch.arange(len(per_query), device=per_query.device), self.pooled]


def check_attention(tower: Tower) -> None:
    """Check that ``trace`` can run a tower.

    Raises:
        M2IBError: if the tower's attention can't be read.
    """
    for block in tower.blocks:
        _parts(tower, block)
    if tower.spec.pool is not None and tower.spec.pool_parts is None:
        raise M2IBError(
            f"this method reads attention, and how the {tower.modality} tower pools is not known (TowerSpec.pool_parts)"
        )


def _parts(tower: Tower, block: Any) -> BlockParts:
    parts = tower.spec.parts(block) if tower.spec.parts is not None else None
    if parts is None:
        raise M2IBError(
            f"this method reads attention, and the blocks of the {tower.modality} tower are not of a known kind "
            "(TowerSpec.parts). A hook or an adapter in a block also hides its attention."
        )
    return parts


def trace(tower: Tower, hidden: Hidden) -> Traced:
    """Run embedded inputs through a tower that ``check_attention`` accepts."""
    z, spec, layout = hidden.z, tower.spec, hidden.layout
    layers: list[Attention] = []
    for block in tower.blocks:
        z, layer = _run_block(_parts(tower, block), z, spec.causal, layout)
        layers.append(layer)
    if layout.pooled is not None:
        return Traced(layers, tower.finish(z, layout), layout.pooled)
    assert spec.pool_parts is not None  # check_attention
    pooled, layer = _run_pooling(spec.pool_parts(tower.model), z, layout)
    return Traced([*layers, layer], spec.head(tower.model, pooled), None)


def _run_block(parts: BlockParts, z: Tensor, causal: bool, layout: Layout) -> tuple[Tensor, Attention]:
    x = z if parts.post_norm else parts.norm1(z)
    read = layout.attended if layout.padded and not causal else None
    layer = _attend(parts.query(x), parts.key(x), parts.value(x), parts.heads, causal, read)
    z = z + parts.out(layer.output)
    if parts.post_norm:
        z = parts.norm1(z)
    changed = parts.down(parts.activation(parts.up(z if parts.post_norm else parts.norm2(z))))
    return parts.norm2(z + changed) if parts.post_norm else z + changed, layer


def _run_pooling(parts: PoolingParts, z: Tensor, layout: Layout) -> tuple[Tensor, Attention]:
    attention, x = parts.attention, parts.norm(z)
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    inputs = (parts.query.expand(len(x), -1, -1), x, x)
    query, key, value = (F.linear(tokens, w, b) for tokens, w, b in zip(inputs, weights, biases, strict=True))
    layer = _attend(query, key, value, attention.num_heads, False, layout.attended if layout.padded else None)
    return parts.rest(attention.out_proj(layer.output)[:, 0]), layer


def _attend(
    query: Tensor, key: Tensor, value: Tensor, heads: int, causal: bool, read: Tensor | None = None
) -> Attention:
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))  # (B, H, ., d)
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, -torch.inf)
    if read is not None:
        scores = scores.masked_fill(~read[:, None, None], -torch.inf)
    weights = scores.softmax(-1)
    return Attention(query, key, value, weights, (weights @ v).transpose(1, 2).flatten(2))
