"""CLIP: an image tower that pools at its class token, and a causal text tower that pools at EOS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from m2ib_lightning.encoder.families.block_parts import clip_block_parts
from m2ib_lightning.encoder.families.family import Family, Inputs, TowerSpec, patch_grid, register_family

_LEGACY_EOS = 2
"""Wrong EOS id in configs from before transformers PR 24773. Models with it pool at ``argmax(input_ids)``."""


def _embed_image(model: Any, inputs: Inputs) -> Tensor:
    return model.vision_model.pre_layrnorm(model.vision_model.embeddings(inputs["pixel_values"]))


def _embed_text(model: Any, inputs: Inputs) -> Tensor:
    return model.text_model.embeddings(input_ids=inputs["input_ids"])


def _causal_arguments(model: Any, hidden: Tensor) -> dict[str, Any]:
    mask = create_causal_mask(
        config=model.text_model.config, inputs_embeds=hidden, attention_mask=None, past_key_values=None
    )
    return {"attention_mask": mask, "is_causal": True}


def _end_of_text(model: Any, inputs: Inputs) -> Tensor:
    """Return the position (B,) of the first EOS token."""
    ids = inputs["input_ids"]
    eos = model.text_model.config.eos_token_id
    return ids.argmax(-1) if eos == _LEGACY_EOS else (ids == eos).int().argmax(-1)


def _class_token(model: Any, inputs: Inputs) -> Tensor:
    """Return the position (B,) of the class token, which is 0."""
    pixels = inputs["pixel_values"]
    return torch.zeros(len(pixels), dtype=torch.long, device=pixels.device)


_IMAGE = TowerSpec(
    embed=_embed_image,
    blocks=lambda model: model.vision_model.encoder.layers,
    block_arguments=lambda model, hidden: {"attention_mask": None},
    head=lambda model, pooled: model.visual_projection(model.vision_model.post_layernorm(pooled)),
    pooled=_class_token,
    lengths=None,
    max_tokens=lambda model: model.vision_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.vision_model.embeddings.position_embedding.embedding_dim,
    prefix_tokens=1,
    grid=patch_grid,
    parts=clip_block_parts,
)

_TEXT = TowerSpec(
    embed=_embed_text,
    blocks=lambda model: model.text_model.encoder.layers,
    block_arguments=_causal_arguments,
    head=lambda model, pooled: model.text_projection(model.text_model.final_layer_norm(pooled)),
    pooled=_end_of_text,
    lengths=lambda model, inputs: _end_of_text(model, inputs) + 1,
    max_tokens=lambda model: model.text_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.text_model.embeddings.position_embedding.embedding_dim,
    parts=clip_block_parts,
    causal=True,
    words=lambda model: model.text_model.embeddings.token_embedding,
)

register_family("clip", Family(image=_IMAGE, text=_TEXT))
