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
"""Class names of the block, its attention and its MLP, by the module of transformers that defines them."""

_HARMLESS_HOOKS = "transformers.utils.output_capturing"
"""Module of the hooks that remain after one request for ``output_hidden_states``. They do nothing later."""


@dataclass(frozen=True)
class BlockParts:
    """The parts of a pre-norm block: ``h + out(attention(norm1(h)))``, then ``h + down(activation(up(norm2(h))))``.

    A linear layer may lack a bias.

    Attributes:
        norm1: norm before the attention.
        query: query projection.
        key: key projection.
        value: value projection.
        out: output projection of the attention.
        norm2: norm before the MLP.
        up: linear layer of the MLP, from D to its inner width.
        activation: elementwise activation of the MLP.
        down: linear layer of the MLP, back to D.
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
    """The parts of attention pooling: a learned query reads every token, and an MLP follows.

    Attributes:
        norm: norm before the pooling.
        query: (1, D) the learned query before its projection.
        attention: attention with packed projections.
        rest: function from the output of the attention (B, D) to the pooled vectors (B, D).
    """

    norm: nn.Module
    query: Tensor
    attention: nn.MultiheadAttention
    rest: Callable[[Tensor], Tensor]


def clip_block_parts(block: Any) -> BlockParts | None:
    """Return the parts of a block of CLIP or SigLIP. Both use the same names.

    The result is None if the block is not the library's own (an adapter, a quantised layer, a hook). The weights of
    such a block do not determine what it computes.
    """
    attention: Any = getattr(block, "self_attn", None)
    mlp: Any = getattr(block, "mlp", None)
    names = tuple(type(module).__name__ for module in (block, attention, mlp))
    if names != _BLOCKS.get(type(block).__module__):
        return None
    parts = BlockParts(
        norm1=block.layer_norm1,
        query=attention.q_proj,
        key=attention.k_proj,
        value=attention.v_proj,
        out=attention.out_proj,
        norm2=block.layer_norm2,
        up=mlp.fc1,
        activation=mlp.activation_fn,
        down=mlp.fc2,
        heads=attention.num_heads,
    )
    linears = (parts.query, parts.key, parts.value, parts.out, parts.up, parts.down)
    is_plain = all(type(linear) is nn.Linear for linear in linears)
    norms = (parts.norm1, parts.norm2)
    is_plain = is_plain and all(type(norm) is nn.LayerNorm and norm.weight is not None for norm in norms)
    return parts if is_plain and not any(map(is_modified, block.modules())) else None


def is_modified(module: nn.Module) -> bool:
    """Return whether hooks or a replaced ``forward`` may change what a module computes."""
    hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values(), *module._backward_hooks.values())
    return "forward" in vars(module) or any(getattr(hook, "__module__", "") != _HARMLESS_HOOKS for hook in hooks)
