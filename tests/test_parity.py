"""Invariant 1: the package gives the oracle's numbers, for every family and variant."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from m2ib_lightning.attribution import Attribution, TowerAttribution
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.explainer import Explainer, resolve
from m2ib_lightning.frozen import frozen
from m2ib_lightning.settings import BottleneckSettings, Modality
from m2ib_lightning.statistics import Prior, Statistics
from m2ib_lightning.towers import Encoder
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
    with frozen(model, dtype=dtype):
        return explainer(make_batch(model, pairs), explainer.optimizer())


def assert_equals_reference(
    model: Any, part: TowerAttribution, pair: TinyPair, modality: Modality, tolerance: float, **settings: Any
) -> None:
    pixels, ids = pair.pixels[None].double(), torch.tensor([pair.ids])
    expected = explain_reference(model, modality, pixels, ids, seed=3, **settings)
    patches = part.saliency.size
    kept = expected["saliency"][-patches:] if modality == "image" else expected["saliency"][pair.positions]
    assert relative_difference(part.saliency.ravel(), kept) < tolerance
    for name in ("loss", "information", "similarity"):
        assert relative_difference(getattr(part, name), expected[name]) < tolerance, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("size", "tower", "steps", "draws"), VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_equals_the_reference(
    family: str,
    size: dict[str, Any],
    tower: dict[str, Any],
    steps: int,
    draws: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    model = make_model(family, **size)
    pairs = make_pairs(model, LENGTHS)
    shared = {"steps": steps, "noise_samples": draws, "initial_alpha": 4.0}
    config = model.config
    priors: dict[Modality, Prior] = {
        "image": made_up_prior(config.vision_config.hidden_size),
        "text": made_up_prior(config.text_config.hidden_size),
    }
    statistics = Statistics({f"{m}.{tower['layer']}": prior for m, prior in priors.items()})
    results = explain_tiny(model, pairs, {"image": tower, "text": tower, **shared}, statistics, dtype)

    given = {"beta": 0.1, **tower}
    use_prior = given.pop("prior", "unit") == "data"
    for result, pair in zip(results, pairs, strict=True):
        for modality, prior in priors.items():
            prior_given = {"mean": prior.mean, "std": prior.std} if use_prior else {}
            part = getattr(result, modality)
            assert_equals_reference(model.double(), part, pair, modality, tolerance, **given, **shared, **prior_given)


def test_the_published_number_of_steps_and_draws() -> None:
    model = make_model("clip", **SMALL)
    pairs = make_pairs(model, [4])
    (result,) = explain_tiny(model, pairs, {}, Statistics(), torch.float64)
    assert result.image is not None
    assert_equals_reference(model.double(), result.image, pairs[0], "image", 1e-6, layer=1, beta=0.1)


def test_the_last_output_of_a_tower_that_pools_every_token() -> None:
    model = make_model("siglip", **SMALL)
    pairs = make_pairs(model, [4])
    tower = {"layer": 2}
    (result,) = explain_tiny(model, pairs, {"image": tower, "steps": 4}, Statistics(), torch.float64)
    assert result.image is not None
    assert_equals_reference(model.double(), result.image, pairs[0], "image", 1e-6, layer=2, beta=0.1, steps=4)
    with pytest.raises(M2IBError, match=r"text.layer=2 is out of range \(the last block's output"):
        explain_tiny(model, pairs, {"text": tower}, Statistics(), torch.float64)
