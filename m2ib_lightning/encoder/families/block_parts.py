"""The parts of a transformer block, for the families whose blocks are alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

_BLOCKS = {
    "transformers.models.clip.modeling_clip": ("CLIPEncoderLayer", "CLIPAttention", "CLIPMLP"),
    "transformers.models.siglip.modeling_siglip": ("SiglipEncoderLayer", "SiglipAttention", "SiglipMLP"),
}
_HARMLESS_HOOKS = "transformers.utils.output_capturing"
"""Module of hooks that stay after ``output_hidden_states`` was requested once, and then do nothing."""


@dataclass(frozen=True)
class BlockParts:
    """The parts of a pre-norm block: ``h + out(attention(norm1(h)))``, then ``h + down(activation(up(norm2(h))))``.

    Each linear layer has a bias or none.

    Attributes:
        norm1: norm before the attention.
        query: query projection.
        key: key projection.
        value: value projection.
        out: output projection of the attention.
        norm2: norm before the perceptron.
        up: linear layer from D to the perceptron's inner width.
        activation: elementwise activation of the perceptron.
        down: linear layer back to D.
        heads: number of attention heads.
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


@dataclass(frozen=True)
class PoolingParts:
    """The parts of attention pooling: a learned query reads every token, and a perceptron follows.

    Attributes:
        norm: norm before the pooling.
        query: (1, D) the learned token, not yet projected.
        attention: attention with packed projections.
        rest: function from the attended (B, D) to the pooled (B, D).
    """

    norm: nn.Module
    query: Tensor
    attention: nn.MultiheadAttention
    rest: Callable[[Tensor], Tensor]


def clip_block_parts(block: Any) -> BlockParts | None:
    """Return the parts of a block of CLIP or SigLIP, which use the same names.

    Return None if the block differs from the library's (an adapter, a quantised layer, a hook), because its weights
    then do not determine what it computes.
    """
    attention: Any = getattr(block, "self_attn", None)
    perceptron: Any = getattr(block, "mlp", None)
    names = tuple(type(module).__name__ for module in (block, attention, perceptron))
    if names != _BLOCKS.get(type(block).__module__):
        return None
    parts = BlockParts(
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
    linears = (parts.query, parts.key, parts.value, parts.out, parts.up, parts.down)
    plain = all(type(linear) is nn.Linear for linear in linears)
    plain = plain and all(type(norm) is nn.LayerNorm and norm.weight is not None for norm in (parts.norm1, parts.norm2))
    return parts if plain and not any(map(_is_modified, block.modules())) else None


def _is_modified(module: nn.Module) -> bool:
    """Return whether hooks or a replaced ``forward`` may change what a module computes."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values())
    return "forward" in vars(module) or any(getattr(hook, "__module__", "") != _HARMLESS_HOOKS for hook in hooks)
