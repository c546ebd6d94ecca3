"""TIPSv2: an image tower with register tokens, and a text tower that pools the mean of the tokens it reads."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.family import About, Family, TowerSpec, patch_grid, register_family
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import as_pooled, first_token, not_padding, padding_mask
from m2ib_lightning.encoder.layout import Layout


def _mean(model: Any, hidden: Tensor, layout: Layout) -> Tensor:
    total = (model.text_model.final_layer_norm(hidden) * layout.valid[..., None]).sum(1)
    count = layout.valid.sum(1, keepdim=True) + model.text_model.config.pooling_epsilon
    return total / count


def _family(config: Any) -> Family:
    vision = config.vision_config
    prefix_tokens = 1 + vision.num_register_tokens
    patches = (vision.image_size // vision.patch_size) ** 2
    image = TowerSpec(
        embed=lambda model, inputs: model.vision_model.embeddings(inputs["pixel_values"]),
        blocks=lambda model: model.vision_model.encoder.layer,
        pooled=first_token,
        head=lambda model, pooled: model.vision_model.layernorm(pooled),
        max_tokens=lambda model: prefix_tokens + patches,
        width=lambda model: model.vision_model.config.hidden_size,
        prefix_tokens=prefix_tokens,
        grid=patch_grid,
        parts=block_parts,
    )
    text = TowerSpec(
        embed=lambda model, inputs: model.text_model.embeddings(input_ids=inputs["input_ids"]),
        blocks=lambda model: model.text_model.encoder.layers,
        arguments=padding_mask(lambda model: model.text_model.config),
        pool=_mean,
        reads=not_padding,
        head=as_pooled,
        max_tokens=lambda model: model.text_model.config.max_position_embeddings,
        width=lambda model: model.text_model.config.hidden_size,
        parts=block_parts,
        words=lambda model: model.text_model.embeddings.token_embedding,
    )
    return Family(image, text, scale=lambda model: 1 / model.temperature)


register_family("Tipsv2Model", _family, About("TIPSv2", "google/tipsv2-b14", "random weights"))
