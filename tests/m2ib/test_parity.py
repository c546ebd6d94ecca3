"""Invariant 1: the package gives the oracle's numbers, for every family and variant."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Prior, Statistics
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.covering import covered
from tests.equality import relative_difference
from tests.reference import explain_reference
from tests.tiny import DEEP, FAMILIES, SMALL, TinyPair, make_batch, make_model, make_pairs

LENGTHS = [3, 14, 1]
"""Words of the captions; 14 and the two special tokens fill the text tower."""

LAYERS = (-1, 0, 1)
"""The first block's input, the middle, and the deepest layer that pooling one token allows."""

STEPS_AND_DRAWS = ((1, 1), (3, 2), (6, 4))

CASES = [
    (family, *case, STEPS_AND_DRAWS[(index // 3 + index) % 3])
    for family in FAMILIES
    for index, case in enumerate(product(("element", "token"), ("unit", "data"), (0.5, 1.0, 2.0), LAYERS))
]

FURTHER_CASES: dict[str, tuple[dict[str, Any], dict[str, Any], int, int]] = {
    "beta-0": (SMALL, {"layer": 0, "beta": 0.0}, 4, 3),
    "beta-2": (SMALL, {"layer": 0, "beta": 2.0}, 4, 3),
    "9-of-12": (DEEP, {"layer": 9}, 6, 4),
    "9-of-12-token-data": (DEEP, {"layer": 9, "granularity": "token", "prior": "data"}, 6, 4),
    "10-of-12": (DEEP, {"layer": 10}, 6, 4),
    "12-first-input": (DEEP, {"layer": -1}, 6, 4),
}
FAST_FURTHER_CASES = {("beta-0", "clip"), ("beta-2", "clip-legacy")}


def random_prior(width: int) -> Prior:
    generator = torch.Generator().manual_seed(width)
    mean = torch.randn(width, generator=generator, dtype=torch.float64)
    return Prior(mean, torch.rand(width, generator=generator, dtype=torch.float64) + 0.5)


def explain_tiny(
    model: Any, pairs: list[TinyPair], values: dict[str, Any], statistics: Statistics, dtype: torch.dtype
) -> list[Attribution]:
    encoder = Encoder(model)
    settings = resolve(BottleneckSettings().override(values), encoder)
    explainer = Explainer(encoder, settings, seed=3, statistics=statistics)
    explainer.bottlenecks.to(dtype)
    with explainer.at_work():
        return explainer(make_batch(model, pairs), explainer.optimizer())


def reference_of(model: Any, pair: TinyPair, modality: Modality, **settings: Any) -> dict[str, Any]:
    """The oracle's result, in float64."""
    pixels, ids = pair.pixels[None].double(), torch.tensor([pair.ids])
    return explain_reference(model.double(), modality, pixels, ids, seed=3, **settings)


def assert_equals_reference(
    part: TowerAttribution, expected: dict[str, Any], pair: TinyPair, modality: Modality, tolerance: float
) -> None:
    patches = part.saliency.size
    reported = expected["saliency"][-patches:] if modality == "image" else expected["saliency"][pair.positions]
    assert relative_difference(part.saliency.ravel(), reported) < tolerance
    assert relative_difference(part.information, expected["information"]) < tolerance
    # Cosine and loss may be near 0, so their difference is absolute. (In one float32 case a gradient of 3e-8 is no
    # larger than Adam's epsilon, so rounding moves its gate, and the cosine of 0.2 by 9e-5.)
    for name in ("similarity", "loss"):
        assert np.abs(getattr(part, name) - expected[name]).max() < tolerance, name


@pytest.mark.parametrize(("family", "granularity", "prior", "sigma", "layer", "steps_and_draws"), covered(CASES))
def test_equals_the_reference(
    family: str, granularity: str, prior: str, sigma: float, layer: int, steps_and_draws: tuple[int, int]
) -> None:
    tower = {"granularity": granularity, "prior": prior, "sigma": sigma, "layer": layer}
    assert_parity(family, SMALL, tower, *steps_and_draws)


@pytest.mark.parametrize(
    ("family", "case"),
    [
        pytest.param(family, case, marks=[] if (case, family) in FAST_FURTHER_CASES else pytest.mark.slow)
        for family in FAMILIES
        for case in FURTHER_CASES
    ],
)
def test_other_weights_and_depths_equal_the_reference(family: str, case: str) -> None:
    assert_parity(family, *FURTHER_CASES[case])


def assert_parity(family: str, size: dict[str, Any], tower: dict[str, Any], steps: int, draws: int) -> None:
    model = make_model(family, **size)
    pairs = make_pairs(model, LENGTHS)
    shared = {"steps": steps, "noise_samples": draws, "initial_alpha": 4.0}
    config = model.config
    priors: dict[Modality, Prior] = {
        "image": random_prior(config.vision_config.hidden_size),
        "text": random_prior(config.text_config.hidden_size),
    }
    statistics = Statistics({f"{m}.{tower['layer']}": prior for m, prior in priors.items()})
    values = {"image": tower, "text": tower, **shared}
    single = explain_tiny(model, pairs, values, statistics, torch.float32)
    double = explain_tiny(model, pairs, values, statistics, torch.float64)

    arguments = {"beta": 0.1, **tower}
    use_prior = arguments.pop("prior", "unit") == "data"
    model.double()
    for index, pair in enumerate(pairs):
        for modality, prior in priors.items():
            moments = {"mean": prior.mean, "std": prior.std} if use_prior else {}
            expected = reference_of(model, pair, modality, **arguments, **shared, **moments)
            assert_equals_reference(getattr(double[index], modality), expected, pair, modality, 1e-6)
            assert_equals_reference(getattr(single[index], modality), expected, pair, modality, 1e-4)


def test_the_published_number_of_steps_and_draws() -> None:
    model = make_model("clip", **SMALL)
    pairs = make_pairs(model, [4])
    (result,) = explain_tiny(model, pairs, {}, Statistics(), torch.float64)
    assert result.image is not None
    expected = reference_of(model, pairs[0], "image", layer=1, beta=0.1)
    assert_equals_reference(result.image, expected, pairs[0], "image", 1e-6)


def test_centred_noise_equals_the_reference() -> None:
    model = make_model("clip", **SMALL)
    pairs = make_pairs(model, [4, 9])
    shared = {"steps": 4, "noise_samples": 3, "centred_noise": True}
    results = explain_tiny(
        model, pairs, {"image": {"layer": 0}, "text": {"layer": 0}, **shared}, Statistics(), torch.float64
    )
    for pair, result in zip(pairs, results, strict=True):
        for modality in MODALITIES:
            expected = reference_of(model, pair, modality, layer=0, beta=0.1, **shared)
            # The draws are centred in float32, as they are drawn.
            assert_equals_reference(getattr(result, modality), expected, pair, modality, 1e-6)


def test_the_last_block_is_allowed_where_pooling_reads_every_token() -> None:
    model = make_model("siglip", **SMALL)
    pairs = make_pairs(model, [4])
    tower = {"layer": 2}
    (result,) = explain_tiny(model, pairs, {"image": tower, "steps": 4}, Statistics(), torch.float64)
    assert result.image is not None
    expected = reference_of(model, pairs[0], "image", layer=2, beta=0.1, steps=4)
    assert_equals_reference(result.image, expected, pairs[0], "image", 1e-6)
    with pytest.raises(M2IBError, match=r"text.layer=2 is out of range \(the last block's output"):
        explain_tiny(model, pairs, {"text": tower}, Statistics(), torch.float64)
