"""What a transformer block is made of, for the families whose blocks are alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class BlockParts:
    """The parts of a pre-norm block: ``h + out(attention(norm1(h)))``, then ``h + down(activation(up(norm2(h))))``.

    Attributes:
        norm1: before the attention.
        query: its projections, with biases.
        key: likewise.
        value: likewise.
        out: likewise.
        norm2: before the perceptron.
        up: D to its inner width.
        activation: elementwise.
        down: back to D.
        heads: of the attention.
    """

    norm1: nn.LayerNorm
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    norm2: nn.LayerNorm
    up: nn.Linear
    activation: nn.Module
    down: nn.Linear
    heads: int


def clip_block_parts(block: Any) -> BlockParts:
    """The parts of a block of CLIP, or of SigLIP: both use the same names."""
    attention, perceptron = block.self_attn, block.mlp
    return BlockParts(
        norm1=block.layer_norm1,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        out=attention.out_proj,
        norm2=block.layer_norm2,
        up=perceptron.fc1,
        activation=perceptron.activation_fn,
        down=perceptron.fc2,
        heads=attention.num_heads,
    )
