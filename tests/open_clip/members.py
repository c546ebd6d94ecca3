"""Tiny models of OpenCLIP's real classes as local folders, with random weights and real tokenizers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
import transformers
from safetensors.torch import save_file
from timm.models import register_model
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from tests.zoo import _bert_text, _bert_tokenizer, _xlm_roberta_tokenizer, _xlm_text, randomise

SIDE = 32
_TIMM = {"img_size": SIDE, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 4}
_ROTARY = {"use_rot_pos_emb": True, "ref_feat_shape": (4, 4)}


def _built(cls: Any, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> Any:
    arguments = {key: value for key, value in arguments.items() if key in ("num_classes", "global_pool")}
    model = cls(**(dict(options) | {"num_classes": 0} | arguments))
    model.default_cfg = model.pretrained_cfg = {}
    return model


@register_model
def m2ib_vit(**arguments: Any) -> Any:
    return _built(VisionTransformer, _TIMM, arguments)


@register_model
def m2ib_vit_registers(**arguments: Any) -> Any:
    options = {"reg_tokens": 2, "global_pool": "avg", "fc_norm": True, "init_values": 0.5}
    return _built(VisionTransformer, _TIMM | options, arguments)


@register_model
def m2ib_vit_map(**arguments: Any) -> Any:
    return _built(VisionTransformer, _TIMM | {"class_token": False, "global_pool": "map"}, arguments)


@register_model
def m2ib_eva(**arguments: Any) -> Any:
    options = {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, "scale_attn_inner": True}
    return _built(Eva, _TIMM | _ROTARY | options | {"global_pool": "token"}, arguments)


@register_model
def m2ib_eva_pe(**arguments: Any) -> Any:
    options = {"attn_type": "rope", "use_pre_transformer_norm": True, "use_post_transformer_norm": True}
    options |= {"use_fc_norm": False, "global_pool": "map", "attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 2.0}
    return _built(Eva, _TIMM | _ROTARY | options, arguments)


_VISION = {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": SIDE}
_TEXT = {"context_length": 16, "width": 32, "heads": 4, "layers": 3}
_WORDS = _TEXT | {"vocab_size": 49408}
_COCA = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1, "attn_pooler_heads": 4}
_COCA_VISION = _VISION | {"attentional_pool": True, "attn_pooler_heads": 8, "output_tokens": True}


def _timm(name: str, **options: Any) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": SIDE} | options


def _hugging_face(pooler: str, **options: Any) -> dict[str, Any]:
    names = {"hf_model_name": "somebody/absent", "hf_tokenizer_name": "somebody/absent"}
    return names | {"hf_proj_type": "mlp", "hf_pooler_type": pooler, "context_length": 16} | options


_LAST = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
_STRETCHED = {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3}

MEMBERS: dict[str, dict[str, Any]] = {
    "vit": {"vision_cfg": _VISION, "text_cfg": _WORDS, "quick_gelu": True},
    "vit-average": {
        "vision_cfg": _VISION | {"pool_type": "avg", "final_ln_after_pool": True, "no_ln_pre": True},
        "text_cfg": _WORDS | {"pool_type": "eos", "eos_id": 49407},
    },
    "padding-read": {"vision_cfg": _VISION, "text_cfg": _WORDS | {"no_causal_mask": True}, "custom_text": True},
    "vit-bert": {
        "vision_cfg": _timm("m2ib_vit"),
        "text_cfg": _hugging_face("cls_last_hidden_state_pooler"),
    },
    "registers-bert": {
        "vision_cfg": _timm("m2ib_vit_registers", timm_proj="mlp"),
        "text_cfg": _hugging_face("cls_pooler"),
    },
    "vit-xlm": {"vision_cfg": _VISION, "text_cfg": _hugging_face("mean_pooler", hf_proj_type="linear")},
    "siglip": {
        "vision_cfg": _timm("m2ib_vit_map", timm_pool="map", timm_proj="none"),
        "text_cfg": _TEXT | _LAST | {"vocab_size": 80, "hf_tokenizer_name": "x"},
        "custom_text": True,
    },
    "eva": {"vision_cfg": _timm("m2ib_eva"), "text_cfg": _WORDS, "custom_text": True},
    "eva-attention-pool": {
        "vision_cfg": _timm("m2ib_eva_pe", timm_pool="map"),
        "text_cfg": _WORDS,
        "custom_text": True,
    },
    "coca": {
        "vision_cfg": _COCA_VISION,
        "text_cfg": _WORDS | {"embed_cls": True, "output_tokens": True, "context_length": 15},
        "multimodal_cfg": _COCA,
        "custom_text": True,
    },
}
"""Configurations (``model_cfg``) of the tiny models; each has ``embed_dim`` 48 besides."""

_TOKENIZERS = {"vit-xlm": _xlm_roberta_tokenizer}
_PREPROCESSING = {"siglip": _STRETCHED}


def make_folder(name: str, folder: Path) -> Path:
    """Write the folder of a member, as OpenCLIP writes it, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    model_cfg = {"embed_dim": 48} | MEMBERS[name]
    config = {"model_cfg": model_cfg, "preprocess_cfg": _PREPROCESSING.get(name, {})}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    text = model_cfg["text_cfg"]
    if "hf_tokenizer_name" in text:
        tokenizer = _TOKENIZERS.get(name, _bert_tokenizer)()
        tokenizer.save_pretrained(folder)
    if "hf_model_name" in text:
        text_config: Any = transformers.BertConfig(**_bert_text())
        if name in _TOKENIZERS:
            text_config = transformers.XLMRobertaConfig(**_xlm_text(max_position_embeddings=24))
        text_config.save_pretrained(folder)
    model = make_model(model_cfg, folder)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def make_model(model_cfg: Mapping[str, Any], folder: Path) -> Any:
    """Make a model of OpenCLIP with random weights, whose text tower of transformers has its config in ``folder``."""
    cfg = json.loads(json.dumps(model_cfg))
    is_custom = cfg.pop("custom_text", False)
    if "hf_model_name" in cfg["text_cfg"]:
        is_custom = True
        cfg["text_cfg"] |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    kind = "CoCa" if "multimodal_cfg" in cfg else "CustomTextCLIP" if is_custom else "CLIP"
    torch.manual_seed(0)
    model = getattr(open_clip, kind)(**cfg)
    randomise(model)
    return model
