"""Chinese-CLIP: CLIP's image tower, and a BERT whose [CLS] is projected without a pooler."""

from __future__ import annotations

from m2ib_lightning.encoder.families.bert import bert_tower
from m2ib_lightning.encoder.families.clip import IMAGE
from m2ib_lightning.encoder.families.family import About, Family, register_family

register_family(
    "ChineseCLIPModel",
    Family(
        IMAGE,
        bert_tower(lambda model: model.text_model, lambda model, pooled: model.text_projection(pooled)),
    ),
    About("Chinese-CLIP", "OFA-Sys/chinese-clip-vit-base-patch16", "random weights"),
)
