"""BLIP with its contrastive towers (ITC). The matching head (ITM) reads picture and caption together: it has no cosine.

The towers of ``BlipForImageTextRetrieval`` and of ``BlipModel`` have other names and projections.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.bert import bert_tower
from m2ib_lightning.encoder.families.family import About, Family, Inputs, TowerSpec, patch_grid, register_family
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import first_token, token_inputs


def _normed(model: Any, pooled: Tensor) -> Tensor:
    normed: Tensor = model.vision_model.post_layernorm(pooled)
    return normed


def _own_image(model: Any, inputs: Inputs) -> Tensor:
    states: Tensor = model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
    projected: Tensor = model.vision_proj(states[:, 0])
    return projected


def _own_text(model: Any, inputs: Inputs) -> Tensor:
    states = model.text_encoder(**token_inputs(inputs)).last_hidden_state
    projected: Tensor = model.text_proj(states[:, 0])
    return projected


def _scale(model: Any) -> Tensor:
    """Return 1 / 0.07, where BLIP's training begins (Li et al., ICML 2022); the class has no temperature."""
    weight: Tensor = model.vision_proj.weight
    return weight.new_tensor(1 / 0.07)


_RETRIEVAL_IMAGE = TowerSpec(
    embed=lambda model, inputs: model.vision_model.embeddings(inputs["pixel_values"]),
    blocks=lambda model: model.vision_model.encoder.layers,
    pooled=first_token,
    head=lambda model, pooled: model.vision_proj(_normed(model, pooled)),
    max_tokens=lambda model: model.vision_model.embeddings.position_embedding.shape[1],
    width=lambda model: model.vision_model.embeddings.position_embedding.shape[2],
    prefix_tokens=1,
    grid=patch_grid,
    own=_own_image,
    parts=block_parts,
)

_RETRIEVAL_TEXT = replace(
    bert_tower(lambda model: model.text_encoder, lambda model, pooled: model.text_proj(pooled)), own=_own_text
)

_MODEL_IMAGE = replace(  # this class norms the class token twice
    _RETRIEVAL_IMAGE,
    head=lambda model, pooled: model.visual_projection(_normed(model, _normed(model, pooled))),
    own=None,
)


def _pooler(model: Any, pooled: Tensor) -> Tensor:
    pooler: Any = model.text_model.pooler
    projected: Tensor = model.text_projection(pooler.activation(pooler.dense(pooled)))
    return projected


register_family(
    "BlipForImageTextRetrieval",
    Family(
        _RETRIEVAL_IMAGE,
        _RETRIEVAL_TEXT,
        scale=_scale,
    ),
    About("BLIP, image-text retrieval (its contrastive towers)", "Salesforce/blip-itm-base-coco", "random weights"),
)
register_family(
    "BlipModel",
    Family(
        _MODEL_IMAGE,
        bert_tower(lambda model: model.text_model, _pooler),
    ),
    About("BLIP, BlipModel", "a folder whose config.json names BlipModel", "random weights"),
)
