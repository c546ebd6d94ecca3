"""AIMv2: RMS norms, an image tower with attention pooling and no class token, and a causal text tower."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.encoder.families.family import About, Family, Inputs, TowerSpec, patch_grid, register_family
from m2ib_lightning.encoder.families.reading import first_of, up_to
from m2ib_lightning.encoder.layout import Layout

_end_of_text = first_of(lambda model: model.text_model.config.eos_token_id)


def _pool(model: Any, hidden: Tensor, layout: Layout) -> Tensor:
    pooled: Tensor = model.vision_model.head(model.vision_model.rms_norm(hidden))
    return pooled


def _causal_mask(tokens: int, like: Tensor) -> Tensor:
    """Return a causal mask (1, 1, T, T) to add to the scores. These blocks do not heed ``is_causal``."""
    later = like.new_ones(tokens, tokens, dtype=torch.bool).triu(1)
    return like.new_zeros(tokens, tokens).masked_fill(later, torch.finfo(like.dtype).min)[None, None]


def _own_text(model: Any, inputs: Inputs) -> Tensor:
    """Return the model's own embeddings, with the mask handed over.

    Left to itself, transformers 5.23 leaves out the mask of a batch without padding, and the tower reads both ways.
    """
    ids = inputs["input_ids"]
    mask = _causal_mask(ids.shape[1], next(model.text_model.parameters()))
    embedding: Tensor = model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
    return embedding


_IMAGE = TowerSpec(
    embed=lambda model, inputs: model.vision_model.embeddings(inputs["pixel_values"]),
    blocks=lambda model: model.vision_model.encoder.layers,
    pool=_pool,
    head=lambda model, pooled: model.visual_projection(pooled),
    max_tokens=lambda model: (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2,
    width=lambda model: model.vision_model.embeddings.patch_embed.out_channels,
    grid=patch_grid,
)

_TEXT = TowerSpec(
    embed=lambda model, inputs: model.text_model.embeddings(inputs["input_ids"]),
    blocks=lambda model: model.text_model.encoder.layers,
    arguments=lambda model, hidden, layout: {"attention_mask": _causal_mask(hidden.shape[1], hidden)},
    pooled=_end_of_text,
    reads=up_to(_end_of_text),
    head=lambda model, pooled: model.text_projection(model.text_model.rms_norm(pooled)),
    max_tokens=lambda model: model.text_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.text_model.embeddings.position_embedding.embedding_dim,
    own=_own_text,
    words=lambda model: model.text_model.embeddings.token_embedding,
)

register_family(
    "Aimv2Model",
    Family(
        _IMAGE,
        _TEXT,
    ),
    About("AIMv2 (image-text)", "apple/aimv2-large-patch14-224-lit", "random weights"),
)
