"""The transformer blocks of the libraries whose parts are known, and the search for the parts of a block.

A block is known only if it is exactly the library's. With an adapter, a quantised layer, a norm of the queries, a hook
or a subclass anywhere in it, its weights do not determine what it computes. Such a block runs as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from transformers.activations import QuickGELUActivation

from m2ib_lightning.encoder.families.block_parts import Affine, BlockParts, is_modified


@dataclass(frozen=True)
class _Names:
    """Where the parts of a block are. All names are paths in the block.

    Attributes:
        holders: class of each module that holds others, or the end of its name for a class of the block's library.
        norms: the two norms.
        projections: the projections to queries, keys and values, or the one that packs them.
        out: output projection of the attention.
        mlp: first linear layer of the MLP, its activation, its second linear layer.
        heads: number of heads.
        scales: the two layer scales, which may be ``nn.Identity``.
        unused: a module that the towers here never run.
        post_norm: whether the norms follow the sums.
    """

    holders: Mapping[str, str | type[nn.Module]]
    norms: tuple[str, str]
    projections: tuple[str, ...]
    out: str
    mlp: tuple[str, str, str]
    heads: str
    scales: tuple[str, ...] = ()
    unused: str = "crossattention"
    post_norm: bool = False

    @property
    def parts(self) -> set[str]:
        """Paths of the parts."""
        return {*self.norms, *self.projections, self.out, *self.mlp, *self.scales}


_CLIP = _Names(
    holders={"self_attn": "Attention", "mlp": "MLP"},
    norms=("layer_norm1", "layer_norm2"),
    projections=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.out_proj",
    mlp=("mlp.fc1", "mlp.activation_fn", "mlp.fc2"),
    heads="self_attn.num_heads",
)
_BLIP = replace(_CLIP, projections=("self_attn.qkv",), out="self_attn.projection")
_VIT = _Names(
    holders={"attention": "Attention", "mlp": "MLP"},
    norms=("layernorm_before", "layernorm_after"),
    projections=("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    out="attention.o_proj",
    mlp=("mlp.fc1", "mlp.activation_fn", "mlp.fc2"),
    heads="attention.num_attention_heads",
)
_DINO = replace(_VIT, norms=("norm1", "norm2"), scales=("layer_scale1", "layer_scale2"))
_BERT = _Names(
    holders={
        "attention": "Attention",
        "attention.self": "SelfAttention",
        "attention.output": "SelfOutput",
        "intermediate": "Intermediate",
        "output": "Output",
    },
    norms=("attention.output.LayerNorm", "output.LayerNorm"),
    projections=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    mlp=("intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"),
    heads="attention.self.num_attention_heads",
    post_norm=True,
)
_FLAVA = _Names(
    holders={
        "attention": "Attention",
        "attention.attention": "SelfAttention",
        "attention.output": "SelfOutput",
        "intermediate": "Intermediate",
        "output": "Output",
    },
    norms=("layernorm_before", "layernorm_after"),
    projections=("attention.attention.query", "attention.attention.key", "attention.attention.value"),
    out="attention.output.dense",
    mlp=("intermediate.dense", "intermediate.intermediate_act_fn", "output.dense"),
    heads="attention.attention.num_attention_heads",
)
_OPEN_CLIP = _Names(
    holders={"attn": nn.MultiheadAttention, "mlp": nn.Sequential},
    norms=("ln_1", "ln_2"),
    projections=("attn",),
    out="attn.out_proj",
    mlp=("mlp.c_fc", "mlp.gelu", "mlp.c_proj"),
    heads="attn.num_heads",
    scales=("ls_1", "ls_2"),
)
_TIMM = _Names(
    holders={"attn": "Attention", "mlp": "Mlp"},
    norms=("norm1", "norm2"),
    projections=("attn.qkv",),
    out="attn.proj",
    mlp=("mlp.fc1", "mlp.act", "mlp.fc2"),
    heads="attn.num_heads",
    scales=("ls1", "ls2"),
)

_KNOWN = {
    "transformers.models.clip.modeling_clip.CLIPEncoderLayer": _CLIP,
    "transformers.models.siglip.modeling_siglip.SiglipEncoderLayer": _CLIP,
    "transformers.models.siglip2.modeling_siglip2.Siglip2EncoderLayer": _CLIP,
    "transformers.models.metaclip_2.modeling_metaclip_2.MetaClip2EncoderLayer": _CLIP,
    "transformers.models.clipseg.modeling_clipseg.CLIPSegEncoderLayer": _CLIP,
    "transformers.models.owlvit.modeling_owlvit.OwlViTEncoderLayer": _CLIP,
    "transformers.models.owlv2.modeling_owlv2.Owlv2EncoderLayer": _CLIP,
    "transformers.models.altclip.modeling_altclip.AltCLIPEncoderLayer": _CLIP,
    "transformers.models.chinese_clip.modeling_chinese_clip.ChineseCLIPVisionLayer": _CLIP,
    "transformers.models.tipsv2.modeling_tipsv2.Tipsv2TextEncoderLayer": _CLIP,
    "transformers.models.blip.modeling_blip.BlipEncoderLayer": _BLIP,
    "transformers.models.vit.modeling_vit.ViTLayer": _VIT,
    "transformers.models.deit.modeling_deit.DeiTLayer": _VIT,
    "transformers.models.dinov2.modeling_dinov2.Dinov2Layer": _DINO,
    "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers.Dinov2WithRegistersLayer": _DINO,
    "transformers.models.tipsv2.modeling_tipsv2.Tipsv2VisionLayer": _DINO,
    "transformers.models.bert.modeling_bert.BertLayer": _BERT,
    "transformers.models.roberta.modeling_roberta.RobertaLayer": _BERT,
    "transformers.models.xlm_roberta.modeling_xlm_roberta.XLMRobertaLayer": _BERT,
    "transformers.models.camembert.modeling_camembert.CamembertLayer": _BERT,
    "transformers.models.altclip.modeling_altclip.AltRobertaLayer": _BERT,
    "transformers.models.chinese_clip.modeling_chinese_clip.ChineseCLIPTextLayer": _BERT,
    "transformers.models.blip.modeling_blip_text.BlipTextLayer": _BERT,
    "transformers.models.flava.modeling_flava.FlavaLayer": _FLAVA,
    "open_clip.transformer.ResidualAttentionBlock": _OPEN_CLIP,
    "timm.models.vision_transformer.Block": _TIMM,
}
"""The known blocks, by their class."""

_ORIGINS = {
    "open_clip": ("open_clip.transformer",),
    "timm": ("timm.models.vision_transformer", "timm.layers"),
}
"""Where the classes of a library's parts are defined; in transformers, in the file of the block."""

_NEUTRAL = (nn.Dropout, nn.Identity)
"""Classes that change nothing in evaluation mode. Neither does a library's ``DropPath``."""


def block_parts(block: nn.Module) -> BlockParts | None:
    """Return the parts of a block of a known class, or None if its class is another one or if it has been changed."""
    names = _KNOWN.get(f"{type(block).__module__}.{type(block).__name__}")
    if names is None or any(map(is_modified, block.modules())):
        return None
    modules = dict(block.named_modules(remove_duplicate=False))
    library = _Library(type(block).__module__)
    if not _is_plain(modules, names, library):
        return None
    up, activation, down = (modules[name] for name in names.mlp)
    projections = [_affine(modules[name]) for name in names.projections]
    query, key, value = projections if len(projections) == 3 else projections[0].split(3)
    scales = [_scale(modules[name]) for name in names.scales] or [None, None]
    return BlockParts(
        norm1=modules[names.norms[0]],
        query=query,
        key=key,
        value=value,
        out=_affine(modules[names.out]).each_scaled(scales[0]),
        norm2=modules[names.norms[1]],
        up=_affine(up),
        activation=QuickGELUActivation() if library.has(activation, "QuickGELU") else activation,
        down=_affine(down).each_scaled(scales[1]),
        heads=attrgetter(names.heads)(block),
        post_norm=names.post_norm,
    )


class _Library:
    """The library that a block belongs to.

    Args:
        file: module that defines the block's class.
    """

    def __init__(self, file: str) -> None:
        self.origins = _ORIGINS.get(file.partition(".")[0], (file,))

    def has(self, module: nn.Module, *ends: str) -> bool:
        """Return whether a module's class is the library's own, with a name that ends so."""
        cls = type(module)
        return cls.__name__.endswith(ends) and cls.__module__.startswith(self.origins)


def _is_plain(modules: dict[str, nn.Module], names: _Names, library: _Library) -> bool:
    """Return whether a block consists of the modules that its layout names, and of others that change nothing."""
    if not {*names.parts, *names.holders} <= modules.keys():
        return False
    inner = {name: m for name, m in modules.items() if name and name.split(".")[0] != names.unused}
    is_causal = any(getattr(module, "is_causal", False) for module in inner.values())
    return not is_causal and all(_is_expected(name, module, names, library) for name, module in inner.items())


def _is_expected(name: str, module: nn.Module, names: _Names, library: _Library) -> bool:
    if name in names.holders:
        holder = names.holders[name]
        return library.has(module, holder) if isinstance(holder, str) else _is_torchs(module, holder)
    if name in names.norms:
        return _is_norm(module, library)
    if name == names.mlp[1]:
        return True  # any activation that works on each element
    if name in names.scales:
        return type(module) is nn.Identity or library.has(module, "LayerScale")
    if name in names.parts:
        return type(module) in (nn.Linear, NonDynamicallyQuantizableLinear)
    return type(module) in _NEUTRAL or library.has(module, "DropPath")


def _is_norm(module: nn.Module, library: _Library) -> bool:
    is_layer_norm = type(module) is nn.LayerNorm or (type(module).__name__ == "LayerNorm" and library.has(module, ""))
    has_weights = all(getattr(module, name, None) is not None for name in ("weight", "bias"))
    return is_layer_norm and has_weights and not getattr(module, "_fast_norm", False)


def _is_torchs(module: nn.Module, holder: type[nn.Module]) -> bool:
    """Return whether a module is torch's own; an attention has one width, no extra keys, and the batch first."""
    if type(module) is not holder:
        return False
    if not isinstance(module, nn.MultiheadAttention):
        return True
    has_extra = module.bias_k is not None or module.bias_v is not None or module.add_zero_attn
    return module.batch_first and module.in_proj_weight is not None and not has_extra


def _affine(module: Any) -> Affine:
    packed = isinstance(module, nn.MultiheadAttention)
    weight, bias = (module.in_proj_weight, module.in_proj_bias) if packed else (module.weight, module.bias)
    return Affine(weight.detach(), None if bias is None else bias.detach())


def _scale(module: Any) -> Tensor | None:
    """Return the factors (D,) of a layer scale, or None of ``nn.Identity``."""
    if isinstance(module, nn.Identity):
        return None
    factors: Tensor = module.lambda1 if hasattr(module, "lambda1") else module.gamma
    return factors.detach()
