"""CLIP: an image tower that pools at its class token, and a causal text tower that pools at EOS.

MetaCLIP 2, CLIPSeg and OWL-ViT have the same towers under other class names.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.family import About, Family, Inputs, TowerSpec, patch_grid, register_family
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.families.reading import causal_mask, first_of, first_token, largest_id, no_mask, up_to

_LEGACY_EOS = 2
"""Wrong EOS id in configs from before transformers PR 24773. Models with it pool at ``argmax(input_ids)``."""


def _eos(model: Any) -> int:
    end: int = model.text_model.config.eos_token_id
    return end


def _end_of_text(model: Any, inputs: Inputs) -> Tensor:
    """Return the position (B,) of the first EOS token."""
    position = largest_id if _eos(model) == _LEGACY_EOS else first_of(_eos)
    return position(model, inputs)


IMAGE = TowerSpec(
    embed=lambda model, inputs: model.vision_model.pre_layrnorm(model.vision_model.embeddings(inputs["pixel_values"])),
    blocks=lambda model: model.vision_model.encoder.layers,
    arguments=no_mask,
    pooled=first_token,
    head=lambda model, pooled: model.visual_projection(model.vision_model.post_layernorm(pooled)),
    max_tokens=lambda model: model.vision_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.vision_model.embeddings.position_embedding.embedding_dim,
    prefix_tokens=1,
    grid=patch_grid,
    parts=block_parts,
)

TEXT = TowerSpec(
    embed=lambda model, inputs: model.text_model.embeddings(input_ids=inputs["input_ids"]),
    blocks=lambda model: model.text_model.encoder.layers,
    arguments=causal_mask(lambda model: model.text_model.config),
    pooled=_end_of_text,
    reads=up_to(_end_of_text),
    head=lambda model, pooled: model.text_projection(model.text_model.final_layer_norm(pooled)),
    max_tokens=lambda model: model.text_model.embeddings.position_embedding.num_embeddings,
    width=lambda model: model.text_model.embeddings.position_embedding.embedding_dim,
    parts=block_parts,
    causal=True,
    words=lambda model: model.text_model.embeddings.token_embedding,
)

register_family(
    "CLIPModel",
    Family(
        IMAGE,
        TEXT,
    ),
    About(
        "CLIP, FashionCLIP, PubMedCLIP, StreetCLIP, Long-CLIP",
        "openai/clip-vit-base-patch16",
        "bundled model",
    ),
)
register_family(
    "CLIPSegModel",
    Family(
        IMAGE,
        TEXT,
    ),
    About("CLIPSeg's CLIP", "CIDAS/clipseg-rd64-refined", "random weights"),
)
