"""Invariant 1: the package gives the oracle's numbers, for every variant of CLIP."""

from __future__ import annotations

import pytest
import torch

from m2ib_lightning.explainer import Explainer
from m2ib_lightning.frozen import frozen
from m2ib_lightning.settings import BottleneckSettings, Modality
from m2ib_lightning.statistics import Prior, Statistics
from tests.conftest import make_batch, make_clip, make_pairs, relative_difference
from tests.reference import explain_reference

SMALL = {"blocks": 3, "width": 32}
DEEP = {"blocks": 12, "width": 48, "image": 48, "patch": 16}
LENGTHS = [3, 9, 1]

VARIANTS = [
    pytest.param(SMALL, {"layer": 0}, id="small"),
    pytest.param(SMALL, {"layer": -1}, id="first-input"),
    pytest.param(SMALL, {"layer": 1}, id="deepest"),
    pytest.param(SMALL, {"layer": -1, "granularity": "token"}, id="token"),
    pytest.param(SMALL, {"layer": 0, "prior": "data"}, id="data-prior"),
    pytest.param(SMALL, {"layer": 0, "prior": "data", "granularity": "token", "sigma": 0.5}, id="token-data-sigma"),
    pytest.param(SMALL, {"layer": 0, "sigma": 2.0, "beta": 1.0}, id="sigma-beta"),
    pytest.param(DEEP, {"layer": 9}, id="9-of-12"),
    pytest.param(DEEP, {"layer": 9, "granularity": "token", "prior": "data"}, id="9-of-12-token-data"),
    pytest.param(DEEP, {"layer": -1}, id="12-first-input"),
]


def made_up_prior(width: int) -> Prior:
    generator = torch.Generator().manual_seed(width)
    mean = torch.randn(width, generator=generator, dtype=torch.float64)
    return Prior(mean, torch.rand(width, generator=generator, dtype=torch.float64) + 0.5)


@pytest.mark.parametrize("eos_token_id", [2, 5])
@pytest.mark.parametrize(("size", "tower"), VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=["f64", "f32"])
def test_equals_the_reference(eos_token_id: int, size: dict, tower: dict, dtype: torch.dtype, tolerance: float) -> None:
    model = make_clip(**size, eos_token_id=eos_token_id)
    pairs = make_pairs(model, LENGTHS)
    settings = BottleneckSettings().override(
        {"image": tower, "text": tower, "steps": 6, "noise_samples": 4, "initial_alpha": 4.0}
    )
    widths: dict[Modality, int] = {
        "image": model.config.vision_config.hidden_size,
        "text": model.config.text_config.hidden_size,
    }
    priors = {m: made_up_prior(width) for m, width in widths.items()}
    statistics = Statistics({f"{m}.{tower['layer']}": prior for m, prior in priors.items()})

    from m2ib_lightning.towers import Encoder

    explainer = Explainer(Encoder(model), settings, seed=3, statistics=statistics)
    explainer.bottlenecks.to(dtype)
    with frozen(model, dtype=dtype):
        results = explainer(make_batch(model, pairs), explainer.optimizer())

    double = model.double()
    for result, (pixels, ids) in zip(results, pairs, strict=True):
        for modality, prior in priors.items():
            given = {"beta": 0.1, **tower}
            use_prior = given.pop("prior", "unit") == "data"
            expected = explain_reference(
                double,
                modality,
                pixels[None].double(),
                torch.tensor([ids]),
                **given,
                mean=prior.mean if use_prior else None,
                std=prior.std if use_prior else None,
                steps=6,
                noise_samples=4,
                initial_alpha=4.0,
                seed=3,
            )
            part = getattr(result, modality)
            reported = expected["saliency"][1:] if modality == "image" else expected["saliency"][1:-1]
            assert relative_difference(part.saliency.ravel(), reported) < tolerance
            for name in ("loss", "information", "similarity"):
                assert relative_difference(getattr(part, name), expected[name]) < tolerance, name
