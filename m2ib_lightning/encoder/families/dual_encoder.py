"""``VisionTextDualEncoderModel``: an image tower and a text tower of two models, each with a projection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from m2ib_lightning.encoder.families.bert import bert_tower
from m2ib_lightning.encoder.families.clip import IMAGE as CLIP_IMAGE
from m2ib_lightning.encoder.families.family import About, Family, TowerSpec, patch_grid, register_family
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import first_token
from m2ib_lightning.errors import M2IBError

_BERT_LIKE = ("bert", "roberta", "xlm-roberta", "camembert")
"""Types of text models with BERT's module names and a pooler."""

_VIT_LIKE: dict[str, Callable[[Any], int]] = {
    "vit": lambda config: 1,
    "deit": lambda config: 2,  # the class token and the distillation token
    "dinov2": lambda config: 1,
    "dinov2_with_registers": lambda config: 1 + config.num_register_tokens,
}
"""Number of prefix tokens by type of the image models with ViT's module names."""


def _vit_blocks(model: Any) -> Sequence[nn.Module]:
    core = model.vision_model
    blocks: Sequence[nn.Module] = core.layers if hasattr(core, "layers") else core.encoder.layer
    return blocks


def _vit_head(model: Any, pooled: Tensor) -> Tensor:
    core = model.vision_model
    pooled = core.layernorm(pooled)
    pooler = getattr(core, "pooler", None)
    if pooler is not None:  # DINOv2 has none
        pooled = pooler.activation(pooler.dense(pooled))
    projected: Tensor = model.visual_projection(pooled)
    return projected


def _bert_head(model: Any, pooled: Tensor) -> Tensor:
    pooler = model.text_model.pooler
    projected: Tensor = model.text_projection(pooler.activation(pooler.dense(pooled)))
    return projected


def _vit_tower(prefix_tokens: int) -> TowerSpec:
    return TowerSpec(
        embed=lambda model, inputs: model.vision_model.embeddings(inputs["pixel_values"]),
        blocks=_vit_blocks,
        pooled=first_token,
        head=_vit_head,
        max_tokens=lambda model: prefix_tokens + model.vision_model.embeddings.patch_embeddings.num_patches,
        width=lambda model: model.vision_model.config.hidden_size,
        prefix_tokens=prefix_tokens,
        grid=patch_grid,
        parts=block_parts,
    )


def _family(config: Any) -> Family:
    vision, text = config.vision_config.model_type, config.text_config.model_type
    if vision == "clip_vision_model":
        image = CLIP_IMAGE
    elif vision in _VIT_LIKE:
        image = _vit_tower(_VIT_LIKE[vision](config.vision_config))
    else:
        raise M2IBError(
            f"the image tower of this dual encoder is a {vision!r}, which is not supported; there is "
            f"clip_vision_model, {', '.join(_VIT_LIKE)}"
        )
    if text not in _BERT_LIKE:
        raise M2IBError(
            f"the text tower of this dual encoder is a {text!r}, which is not supported; there is "
            f"{', '.join(_BERT_LIKE)}"
        )
    return Family(image, bert_tower(lambda model: model.text_model, _bert_head))


register_family(
    "VisionTextDualEncoderModel",
    _family,
    About(
        "VisionTextDualEncoderModel: ViT, DeiT, DINOv2 or CLIP with BERT, RoBERTa or CamemBERT",
        "a folder whose config.json names VisionTextDualEncoderModel",
        "random weights",
    ),
)
