"""Fine-tuning: the bottlenecks in a model, and their noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from m2ib_lightning.config import MODALITIES, FinetuneConfig
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.finetuning import IBClipModule
from m2ib_lightning.finetuning.network import BottleneckedModel
from m2ib_lightning.finetuning.training_noise import draw_noise
from m2ib_lightning.m2ib.settings import BottleneckSettings
from tests.equality import relative_difference
from tests.reference import clean_embeddings
from tests.tiny import FAMILIES, make_batch, make_model, make_pairs
from tests.training import scenes

SETTINGS = BottleneckSettings().override({"image": {"layer": 0}, "text": {"layer": 1}})


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("mask", [None, "channel", "readout"])
def test_open_gates_and_no_bottleneck_are_the_untouched_model(family: str, mask: str | None) -> None:
    model = make_model(family).double()
    pairs = make_pairs(model, [3, 7, 1])
    network = BottleneckedModel(Encoder(model), SETTINGS.override({"initial_alpha": 80.0}), mask).double()
    outputs = network(make_batch(model, pairs, None).inputs | {"image": {"pixel_values": _pixels(pairs)}})
    for index, pair in enumerate(pairs):
        untouched = clean_embeddings(model, pair.pixels[None].double(), torch.tensor([pair.ids]))
        for modality in MODALITIES:
            assert relative_difference(outputs[modality].embedding[index], untouched[modality][0]) < 1e-6
            assert relative_difference(outputs[modality].clean[index], untouched[modality][0]) < 1e-6


def _pixels(pairs: list[Any]) -> torch.Tensor:
    return torch.stack([pair.pixels for pair in pairs]).double()


@pytest.mark.parametrize("mask", ["channel", "readout"])
def test_information_and_draws_are_their_equations(mask: str) -> None:
    model = make_model("clip").double()
    pairs = make_pairs(model, [4, 2])
    network = BottleneckedModel(Encoder(model), SETTINGS, mask).double()
    inputs: Any = make_batch(model, pairs).inputs | {"image": {"pixel_values": _pixels(pairs)}}
    seen = []
    bottleneck: Any = network.bottlenecks["image"]
    bottleneck.register_forward_hook(lambda module, args, output: seen.append((args, output)))
    noise = torch.randn(2, 17, 48, generator=torch.Generator().manual_seed(0)).double()
    outputs = network(inputs, lambda m, z: noise if m == "image" else torch.zeros_like(z))
    (z, features, context, _), (t, information) = seen[0]
    lambda_ = torch.sigmoid(bottleneck.mask(features, context)).expand_as(z)
    assert relative_difference(t, lambda_ * z + (1 - lambda_) * noise) < 1e-9
    variance = (1 - lambda_) ** 2
    literal = -0.5 * (1 + variance.log() - (lambda_ * z) ** 2 - variance)
    assert relative_difference(information, literal) < 1e-9
    assert relative_difference(outputs["image"].information, literal.mean((1, 2))) < 1e-9
    assert relative_difference(outputs["image"].saliency, literal.sum(-1)) < 1e-9
    valid = outputs["text"].saliency[1, :4]  # two words and the special tokens: padding does not count
    assert outputs["text"].information[1].item() == pytest.approx(valid.mean().item() / 32)


def test_noise_is_keyed_by_epoch_and_pair() -> None:
    (one,) = draw_noise(0, "image", 3, ["pairs:7"], (5, 4))
    assert torch.equal(one, draw_noise(0, "image", 3, ["pairs:8", "pairs:7"], (5, 4))[1])
    assert torch.equal(one[:3], draw_noise(0, "image", 3, ["pairs:7"], (3, 4))[0])
    for other in (
        draw_noise(1, "image", 3, ["pairs:7"], (5, 4)),
        draw_noise(0, "text", 3, ["pairs:7"], (5, 4)),
        draw_noise(0, "image", 4, ["pairs:7"], (5, 4)),
        draw_noise(0, "image", 3, ["pairs:8"], (5, 4)),
    ):
        assert not torch.equal(one, other[0])
    many = draw_noise(0, "image", 3, [str(k) for k in range(200)], (50, 32))
    assert abs(many.mean()) < 0.01
    assert abs(many.std() - 1) < 0.01


def test_a_channel_mask_is_compared_with_the_clean_other_half() -> None:
    model, data = scenes(8, 8)
    module = IBClipModule(model, FinetuneConfig(mask="channel", train="bottleneck"))
    (batch,) = data.train_dataloader()
    noise = torch.Generator().manual_seed(0)
    outputs = module.network(batch.inputs, lambda m, z: torch.randn(z.shape, generator=noise))
    for modality, inputs in batch.inputs.items():
        features = getattr(model.encoder.model, f"get_{modality}_features")
        untouched = features(**{k: v for k, v in inputs.items() if k != "attention_mask"}).pooler_output
        assert relative_difference(outputs[modality].clean, untouched.detach()) < 1e-5
        assert relative_difference(outputs[modality].embedding.detach(), untouched.detach()) > 1e-3
