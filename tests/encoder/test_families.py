"""Every family: its towers are the model's own function, its maps are the oracle's, and no pair sees its neighbours."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning import explain
from m2ib_lightning.api.request import parse_request
from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.towers import Tower
from m2ib_lightning.models.load import LoadedModel, wrap_model
from m2ib_lightning.pairs.pair import PairBatch
from tests.equality import relative_difference
from tests.reference import explain_tower
from tests.zoo import MEMBERS, Member, make_member

CAPTIONS = ["a red circle", "a blue star and a green square next to the red circle", "red"]
FAST = {
    "CLIPModel", "MetaClip2Model", "Siglip2Model", "ChineseCLIPModel", "BlipForImageTextRetrieval", "Aimv2Model",
    "Tipsv2Model", "VisionTextDualEncoderModel-deit",
}  # fmt: skip
"""Members that are tested with the fast tests: one of each kind of mask, pooling and block."""

ALONE = {"MetaClip2Model", "Siglip2Model", "BlipForImageTextRetrieval", "VisionTextDualEncoderModel-deit"}
"""Those of them whose pairs are also explained alone by several methods."""


def slow_unless(fast: set[str]) -> list[Any]:
    return [name if name in fast else pytest.param(name, marks=pytest.mark.slow) for name in MEMBERS]


NAMES = slow_unless(FAST)


def pictures() -> list[Image.Image]:
    """Three pictures of different proportions."""
    rng = np.random.default_rng(0)
    shapes = ((40, 60, 3), (30, 30, 3), (70, 30, 3))
    return [Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)) for shape in shapes]


@cache
def member_of(name: str) -> tuple[Member, LoadedModel]:
    member = make_member(name)
    return member, wrap_model(member.model, member.processor)


def batch_of(model: LoadedModel, indices: tuple[int, ...] = (0, 1, 2)) -> PairBatch:
    request = parse_request([pictures()[k] for k in indices], [CAPTIONS[k] for k in indices])
    return request.batch(model.preparer, range(len(indices)), None)


def own_inputs(member: Member, model: LoadedModel, modality: str, index: int) -> dict[str, torch.Tensor]:
    """The inputs of one pair as the model's own processor makes them, in float64."""
    if modality == "image":
        inputs = dict(member.processor.image_processor(images=[pictures()[index]], return_tensors="pt"))
        if "pixel_attention_mask" in inputs:
            patches = int(inputs["pixel_attention_mask"].sum())
            inputs |= {name: inputs[name][:, :patches] for name in ("pixel_values", "pixel_attention_mask")}
    else:
        tokenizer, limit = member.processor.tokenizer, model.encoder.towers["text"].max_tokens
        options = {"padding": model.encoder.family.padding, "truncation": True, "max_length": limit}
        inputs = dict(tokenizer([CAPTIONS[index]], return_tensors="pt", **options))
        inputs = {name: inputs[name] for name in model.encoder.family.text_arguments if name in inputs}
    return {name: value.double() if value.is_floating_point() else value for name, value in inputs.items()}


def rows(inputs: dict[str, torch.Tensor], count: int) -> dict[str, torch.Tensor]:
    return {name: value.repeat_interleave(count, 0) for name, value in inputs.items()}


@pytest.mark.parametrize("name", NAMES)
def test_both_halves_of_a_tower_are_the_models_own_function(name: str) -> None:
    member, model = member_of(name)
    batch = batch_of(model)
    with frozen(member.model, dtype=torch.float64):
        for modality in MODALITIES:
            tower = model.encoder.towers[modality]
            order = [CAPTIONS.index(pair.caption or "") for pair in batch.pairs]
            own = torch.cat([member.embed(modality, own_inputs(member, model, modality, k)) for k in order])
            tolerance = 1e-6 if name == "Aimv2Model" else 1e-9  # its norms compute in float32
            assert relative_difference(model.encoder.features(modality, batch.inputs[modality]), own) < tolerance
            for layer in range(-1, len(tower.blocks)):
                check_cut(tower, batch.inputs[modality], layer, own, tolerance)


@torch.no_grad()
def check_cut(tower: Tower, inputs: dict[str, torch.Tensor], layer: int, own: torch.Tensor, tolerance: float) -> None:
    """Compare the two halves with the model's own embeddings, also for three draws and with rubbish in the padding."""
    hidden = tower.prefix(inputs, layer)
    assert relative_difference(tower.suffix(hidden.z, layer, hidden.layout), own) < tolerance
    three = tower.suffix(hidden.z.repeat_interleave(3, 0), layer, hidden.layout.repeated(3))
    assert relative_difference(three, own.repeat_interleave(3, 0)) < tolerance
    rubbish = torch.where(hidden.valid[..., None], hidden.z, 3.0)
    assert relative_difference(tower.suffix(rubbish, layer, hidden.layout), own) < tolerance
    longest = max(hidden.layout.lengths())
    cut = tower.suffix(hidden.z[:, :longest], layer, hidden.layout.cut(longest))
    assert relative_difference(cut, own) < tolerance


@pytest.mark.parametrize("name", NAMES)
def test_maps_in_a_batch_are_those_of_the_oracle(name: str) -> None:
    member, model = member_of(name)
    settings: dict[str, Any] = {"steps": 3, "noise_samples": 2, "image": {"layer": 0}, "text": {"layer": 0}}
    results = explain(pictures(), CAPTIONS, model=model, bottleneck=settings, seed=5, dtype=torch.float64)
    with frozen(member.model, dtype=torch.float64):
        for index in (0, 2):
            assert results[index].error is None
            for modality in MODALITIES:
                expected = oracle(member, model, modality, index)
                actual = getattr(results[index], modality)
                assert relative_difference(actual.loss, expected["loss"]) < 1e-6
                saliency = torch.as_tensor(expected["saliency"])[places(model, modality, results[index].pair)]
                assert relative_difference(actual.saliency.flatten(), saliency) < 1e-6


def oracle(member: Member, model: LoadedModel, modality: Modality, index: int) -> dict[str, Any]:
    inputs = {m: own_inputs(member, model, m, index) for m in MODALITIES}
    with torch.no_grad():
        target = member.embed(
            "text" if modality == "image" else "image", inputs["text" if modality == "image" else "image"]
        )

    return explain_tower(
        lambda count: member.embed(modality, rows(inputs[modality], count)),
        member.blocks(modality),
        target[0],
        modality=modality,
        largest=model.encoder.towers[modality].max_tokens,
        layer=0,
        beta=0.1,
        steps=3,
        noise_samples=2,
        seed=5,
    )


def places(model: LoadedModel, modality: Modality, pair: Any) -> Any:
    if modality == "text":
        return pair.token_positions
    return slice(model.encoder.towers["image"].spec.prefix_tokens, None)


@pytest.mark.parametrize("name", slow_unless(ALONE))
def test_no_pair_sees_its_neighbours(name: str) -> None:
    _, model = member_of(name)
    settings: dict[str, Any] = {"steps": 3, "noise_samples": 2}
    for method in ("m2ib", "gradcam", "rise:samples=4", "occlusion"):
        together = explain(pictures(), CAPTIONS, model=model, bottleneck=settings, method=method, dtype=torch.float64)
        alone = explain(
            pictures()[2], CAPTIONS[2], model=model, bottleneck=settings, method=method, dtype=torch.float64
        )
        for modality in MODALITIES:
            a, b = (getattr(result, modality).saliency for result in (together[2], alone))
            assert np.abs(a - b).max() <= 1e-9 + 1e-6 * np.abs(b).max(), (method, modality)


@pytest.mark.parametrize("name", NAMES)
def test_no_gradient_reaches_a_token_that_is_not_read(name: str) -> None:
    _, model = member_of(name)
    batch = batch_of(model)
    with frozen(model.encoder.model, dtype=torch.float64):
        for modality in MODALITIES:
            tower = model.encoder.towers[modality]
            hidden = tower.prefix(batch.inputs[modality], 0)
            z = hidden.z.requires_grad_()
            (gradient,) = torch.autograd.grad(tower.suffix(z, 0, hidden.layout).square().sum(), z)
            assert (gradient.abs().sum(-1)[hidden.valid] > 0).all()
            assert (gradient[~hidden.valid] == 0).all()
