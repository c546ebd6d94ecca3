"""The parts of OpenCLIP's own blocks and of timm's, whose queries, keys and values are one packed matrix."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from m2ib_lightning.encoder.families.block_parts import BlockParts, is_modified

_OPEN_CLIP, _TIMM = "open_clip.transformer.", "timm.models.vision_transformer.Block"
_TIMM_ATTENTIONS = ("timm.layers.attention.Attention", "timm.models.vision_transformer.Attention")
_NORMS = ("torch.nn.modules.normalization.LayerNorm", f"{_OPEN_CLIP}LayerNorm", "timm.layers.norm.LayerNorm")
_ABSENT = (nn.Identity, nn.Dropout)


def own_block_parts(block: Any) -> BlockParts | None:
    """Return the parts of OpenCLIP's ``ResidualAttentionBlock``; None if the block is another one, or modified."""
    if _path(block) != f"{_OPEN_CLIP}ResidualAttentionBlock" or not _is_plain(block, block.ls_1, block.ls_2):
        return None
    attention, mlp = block.attn, block.mlp
    if type(attention) is not nn.MultiheadAttention or attention.in_proj_weight is None or not attention.batch_first:
        return None
    if attention.bias_k is not None or attention.add_zero_attn or len(mlp) != 3:
        return None
    query, key, value = _unpacked(attention.in_proj_weight, attention.in_proj_bias)
    parts = BlockParts(
        norm1=block.ln_1,
        query=query,
        key=key,
        value=value,
        out=_linear(attention.out_proj.weight, attention.out_proj.bias),
        norm2=block.ln_2,
        up=mlp[0],
        activation=mlp[1],
        down=mlp[2],
        heads=attention.num_heads,
    )
    return parts if _is_known(parts) else None


def timm_block_parts(block: Any) -> BlockParts | None:
    """Return the parts of timm's ``Block``, or None if the block is of another kind or modified."""
    attention: Any = getattr(block, "attn", None)
    mlp: Any = getattr(block, "mlp", None)
    if _path(block) != _TIMM or _path(attention) not in _TIMM_ATTENTIONS or _path(mlp) != "timm.layers.mlp.Mlp":
        return None
    between = (attention.q_norm, attention.k_norm, attention.norm, mlp.norm)
    residual = (block.ls1, block.ls2)
    if not _is_plain(block, *between, *residual) or getattr(attention, "gate", None) is not None:
        return None
    query, key, value = _unpacked(attention.qkv.weight, attention.qkv.bias)
    parts = BlockParts(
        norm1=block.norm1,
        query=query,
        key=key,
        value=value,
        out=attention.proj,
        norm2=block.norm2,
        up=mlp.fc1,
        activation=mlp.act,
        down=mlp.fc2,
        heads=attention.num_heads,
    )
    return parts if _is_known(parts) and type(attention.qkv) is nn.Linear else None


def _path(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


def _is_plain(block: nn.Module, *absent: nn.Module) -> bool:
    """Whether a block is not modified, and the modules that other variants have are absent."""
    return all(isinstance(module, _ABSENT) for module in absent) and not any(map(is_modified, block.modules()))


def _is_known(parts: BlockParts) -> bool:
    linears = (parts.query, parts.key, parts.value, parts.out, parts.up, parts.down)
    norms = (parts.norm1, parts.norm2)
    return all(type(linear) is nn.Linear for linear in linears) and all(
        _path(norm) in _NORMS and norm.weight is not None for norm in norms
    )


def _unpacked(weight: Tensor, bias: Tensor | None) -> tuple[nn.Linear, nn.Linear, nn.Linear]:
    """Return the three projections of a packed weight (3 D, D). They share its memory."""
    weights = weight.chunk(3)
    query, key, value = (
        _linear(part, None if bias is None else bias.chunk(3)[index]) for index, part in enumerate(weights)
    )
    return query, key, value


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    linear.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        linear.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return linear
