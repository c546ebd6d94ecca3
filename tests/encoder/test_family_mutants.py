"""A family that is nearly right is refused by the check of the first batch: each mutant has one likely mistake."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.families import family_of
from m2ib_lightning.encoder.families.clip import TEXT as CLIP_TEXT
from m2ib_lightning.encoder.families.family import TowerSpec
from m2ib_lightning.encoder.families.reading import first_token, no_mask
from m2ib_lightning.encoder.identity import IdentityCheck
from m2ib_lightning.encoder.suffix import Suffix
from m2ib_lightning.encoder.towers import Encoder, Tower
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.load import wrap_model
from tests.encoder.test_families import batch_of
from tests.zoo import make_member


def normed_once(model: Any, pooled: torch.Tensor) -> torch.Tensor:
    return model.visual_projection(model.vision_model.post_layernorm(pooled))


def mean_of_all(model: Any, hidden: torch.Tensor, layout: Any) -> torch.Tensor:
    return model.text_model.final_layer_norm(hidden).mean(1)


def unmasked_pool(model: Any, hidden: torch.Tensor, layout: Any) -> torch.Tensor:
    return model.vision_model.head(model.vision_model.post_layernorm(hidden))


def without_second_norm(model: Any, pooled: torch.Tensor) -> torch.Tensor:
    return model.text_projection(model.text_model.transformation(pooled))


MUTANTS: dict[str, tuple[str, Modality, Callable[[TowerSpec], TowerSpec]]] = {
    "no mask of the padding": ("ChineseCLIPModel", "text", lambda spec: replace(spec, arguments=no_mask)),
    "the class token normed once": ("BlipModel", "image", lambda spec: replace(spec, head=normed_once)),
    "attention pooling without a mask": ("Siglip2Model", "image", lambda spec: replace(spec, pool=unmasked_pool)),
    "CLIP's rule for the end of text": ("MetaClip2Model", "text", lambda spec: CLIP_TEXT),
    "the mean of the padding, too": ("Tipsv2Model", "text", lambda spec: replace(spec, pool=mean_of_all)),
    "a norm left out": ("AltCLIPModel", "text", lambda spec: replace(spec, head=without_second_norm)),
    "no causal mask": ("Aimv2Model", "text", lambda spec: replace(spec, arguments=no_mask)),
    "another token pooled": ("OwlViTModel", "text", lambda spec: replace(spec, pooled=first_token)),
}


def check(encoder: Encoder, inputs: dict[Modality, Any]) -> None:
    suffixes = {m: Suffix(tower, 0, torch.float32) for m, tower in encoder.towers.items()}
    IdentityCheck(encoder)(inputs, lambda modality: suffixes[modality])


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_is_refused(mutant: str) -> None:
    name, modality, change = MUTANTS[mutant]
    member = make_member(name)
    model = wrap_model(member.model, member.processor)
    inputs = batch_of(model, (1, 2)).tower_inputs
    check(model.encoder, inputs)
    spec = getattr(family_of(member.model), modality)
    model.encoder.towers[modality] = Tower(member.model, change(spec), modality)
    with pytest.raises(M2IBError, match=f"the {modality} tower is not the model's own function"):
        check(model.encoder, inputs)
