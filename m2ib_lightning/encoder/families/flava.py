"""FLAVA: pre-norm towers. The contrastive embedding projects the class token behind the final norm."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.bert import bert_tower
from m2ib_lightning.encoder.families.family import About, Family, Inputs, TowerSpec, register_family
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import first_token, token_inputs


def _grid(model: Any, size: tuple[int, int]) -> tuple[int, int]:
    patch: int = model.config.image_config.patch_size
    return size[0] // patch, size[1] // patch


def _own_image(model: Any, inputs: Inputs) -> Tensor:
    projected: Tensor = model.get_image_features(pixel_values=inputs["pixel_values"]).pooler_output
    return projected[:, 0]  # FLAVA projects every token


def _own_text(model: Any, inputs: Inputs) -> Tensor:
    projected: Tensor = model.get_text_features(**token_inputs(inputs)).pooler_output
    return projected[:, 0]


_IMAGE = TowerSpec(
    embed=lambda model, inputs: model.image_model.embeddings(inputs["pixel_values"]),
    blocks=lambda model: model.image_model.encoder.layer,
    pooled=first_token,
    head=lambda model, pooled: model.image_projection(model.image_model.layernorm(pooled)),
    max_tokens=lambda model: model.image_model.embeddings.position_embeddings.shape[1],
    width=lambda model: model.image_model.embeddings.position_embeddings.shape[2],
    prefix_tokens=1,
    grid=_grid,
    parts=block_parts,
    own=_own_image,
)

_TEXT = replace(
    bert_tower(
        lambda model: model.text_model,
        lambda model, pooled: model.text_projection(model.text_model.layernorm(pooled)),
    ),
    own=_own_text,
)

register_family(
    "FlavaModel",
    Family(
        _IMAGE,
        _TEXT,
    ),
    About("FLAVA", "facebook/flava-full", "random weights"),
)
