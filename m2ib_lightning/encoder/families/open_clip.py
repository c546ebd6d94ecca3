"""OpenCLIP's classes ``CLIP``, ``CustomTextCLIP`` and ``CoCa``, which combine many towers.

They have no configuration, so each family is made from the parts of the loaded model. This file does not import
OpenCLIP, which is optional: the classes are known by their module and name.
"""

from __future__ import annotations

from typing import Any

from m2ib_lightning.encoder.families.family import About, Family, FromModel, register_family
from m2ib_lightning.encoder.families.open_clip_image import image_tower
from m2ib_lightning.encoder.families.open_clip_text import with_text


def _family(model: Any) -> Family:
    return with_text(image_tower(model.visual), model)


register_family(
    "open_clip.model.CLIP",
    FromModel(_family),
    About("OpenCLIP: ViT with its own text tower", "open_clip:ViT-B-32/laion2b_s34b_b79k", "random weights"),
)
register_family(
    "open_clip.model.CustomTextCLIP",
    FromModel(_family),
    About(
        "OpenCLIP: BiomedCLIP, SigLIP, EVA-02, PE-Core, MobileCLIP-B, ViTamin, CLIPA",
        "open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
        "random weights",
    ),
)
register_family(
    "open_clip.coca_model.CoCa",
    FromModel(_family),
    About("OpenCLIP: CoCa's contrastive towers", "open_clip:coca_ViT-B-32/laion2b_s13b_b90k", "random weights"),
)
