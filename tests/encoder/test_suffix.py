"""The suffix equals the model's own blocks, in value and gradient."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.families import Family, TowerSpec
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.layout import Layout
from m2ib_lightning.encoder.suffix import FusedSuffix, Suffix, make_suffix
from m2ib_lightning.encoder.towers import Encoder, Tower
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from tests.covering import covered_product
from tests.equality import relative_difference
from tests.m2ib.test_invariants import LENGTHS
from tests.reference import clean_embeddings
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs


def value_and_gradient(suffix: Suffix, hidden: torch.Tensor, layout: Layout) -> list[torch.Tensor]:
    hidden = hidden.clone().requires_grad_()
    embedding = suffix(hidden, layout)
    weight = torch.arange(1.0, embedding.shape[-1] + 1, dtype=embedding.dtype).cos()  # a different weight per channel
    (gradient,) = torch.autograd.grad((embedding * weight).sum(), hidden)
    return [embedding.detach(), gradient]


def assert_equals_own_blocks(tower: Tower, tokens: int, position: int, layer: int) -> None:
    generator = torch.Generator().manual_seed(layer + 2)
    hidden = torch.randn(3, tokens, tower.width, generator=generator, dtype=torch.float64)
    pooled = None if tower.spec.pooled is None else torch.tensor([position, max(0, position - 1), position])
    layout = Layout(torch.ones(3, tokens, dtype=torch.bool), pooled, padded=False)
    fused = make_suffix(tower, layer, torch.float64)
    assert isinstance(fused, FusedSuffix)
    expected = value_and_gradient(Suffix(tower, layer, torch.float64), hidden, layout)
    for actual, wanted in zip(value_and_gradient(fused, hidden, layout), expected, strict=True):
        assert relative_difference(actual, wanted) < 1e-12


@pytest.mark.parametrize(
    ("layer", "family", "activation"),
    covered_product([-1, 0, 1], FAMILIES, ["quick_gelu", "gelu", "gelu_pytorch_tanh", "relu"]),
)
def test_equals_the_models_own_blocks(layer: int, family: str, activation: str) -> None:
    model = make_model(family)
    for block in (*model.vision_model.encoder.layers, *model.text_model.encoder.layers):
        block.mlp.activation_fn = ACT2FN[activation]
    encoder = Encoder(model)
    with frozen(model, dtype=torch.float64):
        assert_equals_own_blocks(encoder.towers["image"], tokens=17, position=0, layer=layer)
        for position in (3, 9):  # with and without padding
            assert_equals_own_blocks(encoder.towers["text"], tokens=10, position=position, layer=layer)


@pytest.mark.parametrize("without", ["q_proj k_proj v_proj out_proj", "k_proj", "v_proj out_proj"])
def test_equals_blocks_without_biases(without: str) -> None:
    model = make_model("clip")
    for block in model.vision_model.encoder.layers:
        for name in without.split():
            getattr(block.self_attn, name).bias = None
        block.mlp.fc1.bias = None
    with frozen(model, dtype=torch.float64):
        assert_equals_own_blocks(Encoder(model).towers["image"], tokens=17, position=0, layer=0)


class Adapted(torch.nn.Linear):
    """A layer with an adapter: its ``weight`` does not determine what it computes."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


def adapt(model: Any) -> None:
    for block in model.vision_model.encoder.layers:
        adapted = Adapted(block.self_attn.v_proj.in_features, block.self_attn.v_proj.out_features)
        adapted.load_state_dict(block.self_attn.v_proj.state_dict())
        block.self_attn.v_proj = adapted


def hook(model: Any) -> None:
    model.vision_model.encoder.layers[-1].mlp.register_forward_hook(lambda module, inputs, output: 3 * output)


def replace_forward(model: Any) -> None:
    attention = model.vision_model.encoder.layers[-1].self_attn
    original = attention.forward
    attention.forward = lambda *args, **kwargs: (2 * original(*args, **kwargs)[0], None)


@pytest.mark.parametrize("change", [adapt, hook, replace_forward])
def test_a_modified_block_is_not_fused(change: Any) -> None:
    model = make_model("clip")
    pairs = make_pairs(model, LENGTHS)
    plain = Encoder(model).towers["image"]
    assert isinstance(make_suffix(plain, 0, torch.float32), FusedSuffix)
    change(model)
    tower = Encoder(model).towers["image"]
    with frozen(model):
        suffix = make_suffix(tower, 0, torch.float32)
        assert not isinstance(suffix, FusedSuffix)
        batch = make_batch(model, pairs)
        embedding = suffix.embed(tower.prefix(batch.inputs["image"], 0))
    expected = clean_embeddings(model, batch.inputs["image"]["pixel_values"], torch.tensor([pairs[0].ids]))["image"]
    assert relative_difference(embedding, expected) < 1e-5


def test_hooks_that_transformers_leaves_behind_do_not_prevent_fusing() -> None:
    model = make_model("clip")
    model.get_image_features(pixel_values=torch.zeros(1, 3, 32, 32), output_hidden_states=True)
    assert any(block._forward_hooks for block in model.vision_model.encoder.layers)
    assert isinstance(make_suffix(Encoder(model).towers["image"], 0, torch.float32), FusedSuffix)


def test_no_gradient_reaches_a_weight() -> None:
    model = make_model("clip")
    tower = Encoder(model).towers["image"]
    layout = Layout(torch.ones(2, 17, dtype=torch.bool), torch.zeros(2).long(), padded=False)
    with frozen(model):
        value_and_gradient(make_suffix(tower, 0, torch.float32), torch.randn(2, 17, tower.width), layout)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_without_parts_runs_its_own_blocks_with_the_same_result(family: str) -> None:
    model = make_model(family)
    batch = make_batch(model, make_pairs(model, LENGTHS))
    fused, plain = Encoder(model), Encoder(model)

    def without_parts(spec: TowerSpec) -> TowerSpec:
        return replace(spec, parts=None)

    plain.family = Family(without_parts(plain.family.image), without_parts(plain.family.text), plain.family.padding)
    plain.towers = {m: Tower(model, getattr(plain.family, m), m) for m in MODALITIES}
    results: list[Any] = []
    for encoder in (fused, plain):
        settings = BottleneckSettings().override({"steps": 4, "noise_samples": 3})
        explainer = Explainer(encoder, resolve(settings, encoder))
        explainer.bottlenecks.double()
        with explainer.at_work():
            assert isinstance(explainer.problems(batch)[0]["image"].suffix, FusedSuffix) == (encoder is fused)
            results.append(explainer(batch, explainer.optimizer()))
    for a, b in zip(*results, strict=True):
        for modality in MODALITIES:
            assert relative_difference(getattr(a, modality).saliency, getattr(b, modality).saliency) < 1e-9
