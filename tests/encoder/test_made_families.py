"""Families that are made from the model, and tokens that are attended to but not read, or the other way round."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from m2ib_lightning.encoder.families import Family, FromModel, family, family_of, register_family
from m2ib_lightning.encoder.families.clip import IMAGE, TEXT
from m2ib_lightning.encoder.layout import Layout
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.registry import Registry


class CLIP(nn.Module):
    """A class with a common name and without a configuration."""


def test_a_family_is_made_from_the_model_of_the_named_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(family, "_FAMILIES", Registry("model family", "register_family"))
    monkeypatch.setattr(family, "_ABOUT", {})
    made, model = [], CLIP()

    def make(given: CLIP) -> Family:
        made.append(given)
        return Family(IMAGE, TEXT)

    register_family(f"{__name__}.CLIP", FromModel(make))
    assert family_of(model) == Family(IMAGE, TEXT)
    assert made == [model]
    assert family_of(type("Derived", (CLIP,), {})()).text is TEXT
    assert family.family_of_class([f"{__name__}.CLIP"], None) is None
    with pytest.raises(M2IBError, match=r"models of class CLIP .* are not supported"):
        family_of(type("CLIP", (nn.Module,), {"__module__": "elsewhere"})())


def test_the_attended_tokens_stay_with_their_sequence() -> None:
    valid, keys = torch.rand(3, 5) > 0.3, torch.rand(3, 5) > 0.3
    layout = Layout(valid, torch.tensor([1, 2, 0]), keys=keys)
    assert torch.equal(layout.rows(slice(1, 3)).attended, keys[1:3])
    assert torch.equal(layout.repeated(2).attended, keys.repeat_interleave(2, 0))
    assert torch.equal(layout.cut(3).attended, keys[:, :3])
    assert torch.equal(Layout(valid, None).attended, valid)
