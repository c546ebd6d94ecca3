"""The methods that read attention, on families with post-norm blocks, padding masks and packed projections."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning import explain
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.methods.attention import trace
from m2ib_lightning.models.load import wrap_model
from tests.encoder.test_fused_families import member
from tests.equality import relative_difference
from tests.methods.test_methods import assert_close
from tests.zoo import make_member

NAMES = ("ChineseCLIPModel", "BlipForImageTextRetrieval", "MetaClip2Model", "VisionTextDualEncoderModel")
METHODS = ("attention_rollout", "chefer", "grad_eclip")
CAPTIONS = ["a red circle and a blue star", "a green star"]


def own_attentions(model: Any, modality: str, inputs: dict[str, torch.Tensor]) -> Any:
    """Return the attention (B, H, T, T) of each block as the model itself returns it."""
    names = ("vision_model",) if modality == "image" else ("text_model", "text_encoder")
    core = next(getattr(model, name) for name in names if hasattr(model, name))
    return core(**inputs, output_attentions=True).attentions


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_the_traced_attention_is_the_models_own(name: str) -> None:
    model, processor = make_member(name)[:2]  # not the shared one, because it is changed
    model.set_attn_implementation("eager")
    encoder = Encoder(model)
    words = processor.tokenizer(CAPTIONS, padding=True, return_tensors="pt")
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    inputs = {"image": {"pixel_values": pixels}, "text": {k: words[k] for k in ("input_ids", "attention_mask")}}
    with frozen(model, dtype=torch.float64):
        for modality, tower in encoder.towers.items():
            hidden = tower.prefix(inputs[modality], -1)
            traced = trace(tower, hidden)
            expected = own_attentions(model, modality, dict(tower.cast(inputs[modality])))
            for layer, weights in zip(traced.layers, expected, strict=True):
                difference = (layer.weights - weights).abs().amax((1, 3))[hidden.valid]  # of the queries that are read
                assert difference.max() < 1e-6  # transformers computes this softmax in float32
            assert relative_difference(traced.embedding, encoder.features(modality, inputs[modality])) < 1e-6


@pytest.mark.parametrize("name", ["Siglip2Model", "Tipsv2Model", "FlavaModel"])
@torch.no_grad()
def test_the_traced_embedding_is_the_towers(name: str) -> None:
    """Padding in the image (SigLIP 2 reads a mask), layer scale, and other names; TIPSv2's text pools a mean."""
    model = member(name).model
    tower = Encoder(model).towers["image"]
    pixels = torch.zeros(2, 3, 24 * 32)
    pixels[:, :, : 16 * 16] = torch.randn(2, 3, 16 * 16, generator=torch.Generator().manual_seed(0))
    inputs = {"pixel_values": pixels.unflatten(2, (24, 32))}
    if name == "Siglip2Model":
        inputs = {"pixel_values": pixels, "picture_sizes": torch.tensor([[16, 16], [24, 32]])}
    else:
        inputs = {"pixel_values": torch.nn.functional.pad(inputs["pixel_values"], (0, 0, 0, 8))}
    with frozen(model, dtype=torch.float64):
        hidden = tower.prefix(inputs, -1)
        assert bool(hidden.valid.all()) == (name != "Siglip2Model")
        assert relative_difference(trace(tower, hidden).embedding, tower.suffix(hidden.z, -1, hidden.layout)) < 1e-12


@pytest.mark.parametrize("name", NAMES)
def test_a_pair_has_the_same_maps_in_a_padded_batch_and_alone(name: str) -> None:
    model = wrap_model(*member(name)[:2])
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)) for _ in CAPTIONS]
    options: dict[str, Any] = {"model": model, "dtype": torch.float64}
    for method in METHODS:
        together = explain(list(pictures), CAPTIONS, method=method, **options)[1]
        alone = explain(pictures[1], CAPTIONS[1], method=method, **options)
        for modality in ("image", "text"):
            expected = getattr(alone, modality).saliency
            assert_close(getattr(together, modality).saliency, expected, 1e-6)
            assert expected.max() > 0 or (method, modality) == ("grad_eclip", "text")  # it may have no positive part


def test_blocks_of_another_kind_are_refused() -> None:
    with pytest.raises(M2IBError, match="the blocks of the image tower are not of a known kind"):
        explain(np.zeros((32, 32, 3), np.uint8), "a star", model=wrap_model(*member("Aimv2Model")[:2]), method="chefer")
