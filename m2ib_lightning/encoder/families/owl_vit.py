"""OWL-ViT and OWLv2: CLIP's towers under other names. The text tower pools at the largest token id."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from m2ib_lightning.encoder.families.clip import IMAGE, TEXT
from m2ib_lightning.encoder.families.family import About, Family, Inputs, register_family
from m2ib_lightning.encoder.families.reading import largest_id, up_to


def _embed_image(model: Any, inputs: Inputs) -> Any:
    return model.vision_model.pre_layernorm(model.vision_model.embeddings(inputs["pixel_values"]))


_TEXT = replace(TEXT, pooled=largest_id, reads=up_to(largest_id))
_IMAGE = replace(IMAGE, embed=_embed_image)

register_family(
    "OwlViTModel",
    Family(
        _IMAGE,
        _TEXT,
    ),
    About("OWL-ViT's CLIP", "google/owlvit-base-patch32", "random weights"),
)
register_family(
    "Owlv2Model",
    Family(
        _IMAGE,
        _TEXT,
    ),
    About("OWLv2's CLIP", "google/owlv2-base-patch16-ensemble", "random weights"),
)
