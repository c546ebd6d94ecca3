"""Invariant 1: the package gives the oracle's numbers, for every family and variant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Prior, Statistics
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.conftest import relative_difference
from tests.reference import explain_reference
from tests.tiny import DEEP, FAMILIES, SMALL, TinyPair, make_batch, make_model, make_pairs

LENGTHS = [3, 14, 1]
"""Words: 14 and the two special tokens are all that the text tower reads."""

DRAWS = [(1, 1), (3, 2), (6, 4)]
"""Steps and draws: another of these for each case, so that all meet all layers, priors and gates."""

CASES = [
    {"granularity": granularity, "prior": prior, "sigma": sigma, "layer": layer}
    for granularity in ("element", "token")
    for prior in ("unit", "data")
    for sigma in (0.5, 1.0, 2.0)
    for layer in (-1, 0, 1)  # the first block's input, the middle, and the deepest that pooling one token allows
]
VARIANTS = [
    pytest.param(SMALL, case, *DRAWS[(index // 3 + index) % 3], id="-".join(str(value) for value in case.values()))
    for index, case in enumerate(CASES)
]
VARIANTS += [
    pytest.param(SMALL, {"layer": 0, "beta": 0.0}, 4, 3, id="beta-0"),
    pytest.param(SMALL, {"layer": 0, "beta": 2.0}, 4, 3, id="beta-2"),
    pytest.param(DEEP, {"layer": 9}, 6, 4, id="9-of-12"),
    pytest.param(DEEP, {"layer": 9, "granularity": "token", "prior": "data"}, 6, 4, id="9-of-12-token-data"),
    pytest.param(DEEP, {"layer": 10}, 6, 4, id="10-of-12"),
    pytest.param(DEEP, {"layer": -1}, 6, 4, id="12-first-input"),
]


def made_up_prior(width: int) -> Prior:
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
    """The oracle, in float64."""
    pixels, ids = pair.pixels[None].double(), torch.tensor([pair.ids])
    return explain_reference(model.double(), modality, pixels, ids, seed=3, **settings)


def assert_equals_reference(
    part: TowerAttribution, expected: dict[str, Any], pair: TinyPair, modality: Modality, tolerance: float
) -> None:
    patches = part.saliency.size
    kept = expected["saliency"][-patches:] if modality == "image" else expected["saliency"][pair.positions]
    assert relative_difference(part.saliency.ravel(), kept) < tolerance
    assert relative_difference(part.information, expected["information"]) < tolerance
    # A cosine and a loss may be near 0, and their unit is 1. (In one float32 case a gradient of 3e-8, no larger than
    # Adam's epsilon, moves its gate by what rounding makes of it, and the cosine of 0.2 by 9e-5.)
    for name in ("similarity", "loss"):
        assert np.abs(getattr(part, name) - expected[name]).max() < tolerance, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "tower", "steps", "draws"), VARIANTS)
def test_equals_the_reference(family: str, size: dict[str, Any], tower: dict[str, Any], steps: int, draws: int) -> None:
    model = make_model(family, **size)
    pairs = make_pairs(model, LENGTHS)
    shared = {"steps": steps, "noise_samples": draws, "initial_alpha": 4.0}
    config = model.config
    priors: dict[Modality, Prior] = {
        "image": made_up_prior(config.vision_config.hidden_size),
        "text": made_up_prior(config.text_config.hidden_size),
    }
    statistics = Statistics({f"{m}.{tower['layer']}": prior for m, prior in priors.items()})
    values = {"image": tower, "text": tower, **shared}
    single = explain_tiny(model, pairs, values, statistics, torch.float32)
    double = explain_tiny(model, pairs, values, statistics, torch.float64)

    given = {"beta": 0.1, **tower}
    use_prior = given.pop("prior", "unit") == "data"
    model.double()
    for index, pair in enumerate(pairs):
        for modality, prior in priors.items():
            prior_given = {"mean": prior.mean, "std": prior.std} if use_prior else {}
            expected = reference_of(model, pair, modality, **given, **shared, **prior_given)
            assert_equals_reference(getattr(double[index], modality), expected, pair, modality, 1e-6)
            assert_equals_reference(getattr(single[index], modality), expected, pair, modality, 1e-4)


def test_the_published_number_of_steps_and_draws() -> None:
    model = make_model("clip", **SMALL)
    pairs = make_pairs(model, [4])
    (result,) = explain_tiny(model, pairs, {}, Statistics(), torch.float64)
    assert result.image is not None
    expected = reference_of(model, pairs[0], "image", layer=1, beta=0.1)
    assert_equals_reference(result.image, expected, pairs[0], "image", 1e-6)


def test_the_last_output_of_a_tower_that_pools_every_token() -> None:
    model = make_model("siglip", **SMALL)
    pairs = make_pairs(model, [4])
    tower = {"layer": 2}
    (result,) = explain_tiny(model, pairs, {"image": tower, "steps": 4}, Statistics(), torch.float64)
    assert result.image is not None
    expected = reference_of(model, pairs[0], "image", layer=2, beta=0.1, steps=4)
    assert_equals_reference(result.image, expected, pairs[0], "image", 1e-6)
    with pytest.raises(M2IBError, match=r"text.layer=2 is out of range \(the last block's output"):
        explain_tiny(model, pairs, {"text": tower}, Statistics(), torch.float64)
