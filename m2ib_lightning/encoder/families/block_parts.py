"""What a transformer block is made of, for the families whose blocks are alike."""

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
"""Stay for good where ``output_hidden_states`` was asked for once, and do nothing otherwise."""


@dataclass(frozen=True)
class BlockParts:
    """The parts of a pre-norm block: ``h + out(attention(norm1(h)))``, then ``h + down(activation(up(norm2(h))))``.

    Attributes:
        norm1: before the attention.
        query: its projections; each has a bias or none.
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


@dataclass(frozen=True)
class PoolingParts:
    """Attention pooling: a learned query reads every token, and a perceptron follows.

    Attributes:
        norm: before it.
        query: (1, D) the learned token, projected by ``attention``'s own weights.
        attention: with packed projections.
        rest: what makes (B, D) of the attended (B, D).
    """

    norm: nn.Module
    query: Tensor
    attention: nn.MultiheadAttention
    rest: Callable[[Tensor], Tensor]


def clip_block_parts(block: Any) -> BlockParts | None:
    """The parts of a block of CLIP, or of SigLIP: both use the same names.

    None if anything about it is not as the library has it (an adapter, a quantised layer, a hook): its weights then do
    not say what it computes.
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
    return parts if plain and not any(map(_is_tampered_with, block.modules())) else None


def _is_tampered_with(module: nn.Module) -> bool:
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values())
    return "forward" in vars(module) or any(getattr(hook, "__module__", "") != _HARMLESS_HOOKS for hook in hooks)
