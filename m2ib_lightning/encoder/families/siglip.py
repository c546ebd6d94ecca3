"""SigLIP, and SigLIP 2 at a fixed resolution (the same class).

The image tower has no class token: an attention-pooling head reads every patch. The text tower has no mask, so it
reads the padding too. It pools at the last position, which often holds padding. Trimming the padding would therefore
change the embedding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from m2ib_lightning.encoder.families.block_parts import PoolingParts, clip_block_parts
from m2ib_lightning.encoder.families.family import Family, Inputs, TowerSpec, patch_grid, register_family


def _last_position(model: Any, inputs: Inputs) -> Tensor:
    ids = inputs["input_ids"]
    return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)


def _pooling(model: Any) -> PoolingParts:
    head = model.vision_model.head

    def rest(attended: Tensor) -> Tensor:
        return attended + head.mlp(head.layernorm(attended))

    return PoolingParts(model.vision_model.post_layernorm, head.probe[0], head.attention, rest)


_IMAGE = TowerSpec(
    embed=lambda model, inputs: model.vision_model.embeddings(inputs["pixel_values"]),
    blocks=lambda model: model.vision_model.encoder.layers,
    block_arguments=lambda model, hidden: {"attention_mask": None},
    head=lambda model, hidden: model.vision_model.head(model.vision_model.post_layernorm(hidden)),
    pooled=None,
    lengths=None,
    max_tokens=lambda model: model.vision_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.vision_model.embeddings.position_embedding.embedding_dim,
    grid=patch_grid,
    parts=clip_block_parts,
    pooling=_pooling,
)

_TEXT = TowerSpec(
    embed=lambda model, inputs: model.text_model.embeddings(input_ids=inputs["input_ids"]),
    blocks=lambda model: model.text_model.encoder.layers,
    block_arguments=lambda model, hidden: {"attention_mask": None},
    head=lambda model, pooled: model.text_model.head(model.text_model.final_layer_norm(pooled)),
    pooled=_last_position,
    lengths=None,
    max_tokens=lambda model: model.text_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.text_model.embeddings.position_embedding.embedding_dim,
    parts=clip_block_parts,
    words=lambda model: model.text_model.embeddings.token_embedding,
)

register_family("siglip", Family(image=_IMAGE, text=_TEXT, padding="max_length", text_arguments=("input_ids",)))
