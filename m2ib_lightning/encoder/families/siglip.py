"""SigLIP, and SigLIP 2 at a fixed resolution (the same class).

The image tower has no class token: an attention-pooling head reads every patch. The text tower has no mask, so it
reads the padding too. It pools at the last position, which often holds padding. Trimming the padding would therefore
change the embedding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.block_parts import PoolingParts
from m2ib_lightning.encoder.families.family import About, Family, TowerSpec, patch_grid, register_family
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import as_pooled, last_token, no_mask
from m2ib_lightning.encoder.layout import Layout


def _pool(model: Any, hidden: Tensor, layout: Layout) -> Tensor:
    pooled: Tensor = model.vision_model.head(model.vision_model.post_layernorm(hidden))
    return pooled


def _pool_parts(model: Any) -> PoolingParts:
    head = model.vision_model.head

    def rest(attended: Tensor) -> Tensor:
        return attended + head.mlp(head.layernorm(attended))

    return PoolingParts(model.vision_model.post_layernorm, head.probe[0], head.attention, rest)


IMAGE = TowerSpec(
    embed=lambda model, inputs: model.vision_model.embeddings(inputs["pixel_values"]),
    blocks=lambda model: model.vision_model.encoder.layers,
    arguments=no_mask,
    pool=_pool,
    head=as_pooled,
    max_tokens=lambda model: model.vision_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.vision_model.embeddings.position_embedding.embedding_dim,
    grid=patch_grid,
    parts=block_parts,
    pool_parts=_pool_parts,
)

TEXT = TowerSpec(
    embed=lambda model, inputs: model.text_model.embeddings(input_ids=inputs["input_ids"]),
    blocks=lambda model: model.text_model.encoder.layers,
    arguments=no_mask,
    pooled=last_token,
    head=lambda model, pooled: model.text_model.head(model.text_model.final_layer_norm(pooled)),
    max_tokens=lambda model: model.text_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.text_model.embeddings.position_embedding.embedding_dim,
    parts=block_parts,
    words=lambda model: model.text_model.embeddings.token_embedding,
)

register_family(
    "SiglipModel",
    Family(
        IMAGE,
        TEXT,
        padding="max_length",
        text_arguments=("input_ids",),
    ),
    About("SigLIP, and SigLIP 2 at a fixed resolution", "google/siglip-base-patch16-224", "random weights"),
)
