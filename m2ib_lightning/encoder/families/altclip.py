"""AltCLIP: CLIP's image tower, and an XLM-RoBERTa with a norm and a linear map before the projection."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from m2ib_lightning.encoder.families.bert import bert_tower
from m2ib_lightning.encoder.families.clip import IMAGE
from m2ib_lightning.encoder.families.family import About, Family, register_family


def _roberta(model: Any) -> Any:
    return model.text_model.roberta


def _head(model: Any, pooled: Tensor) -> Tensor:
    text: Any = model.text_model
    projected: Tensor = model.text_projection(text.transformation(text.pre_LN(pooled)))
    return projected


register_family(
    "AltCLIPModel",
    Family(
        IMAGE,
        bert_tower(
            lambda model: model.text_model.roberta, _head, lambda model: model.text_model.roberta.encoder.layers
        ),
    ),
    About("AltCLIP", "BAAI/AltCLIP", "random weights"),
)
