"""The bottleneck's equations, against torch's distributions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from m2ib_lightning import BottleneckSettings, InformationBottleneck
from m2ib_lightning.m2ib import noise as noise_module
from m2ib_lightning.m2ib.noise import NoiseBank, NoiseCache, draw_noise
from m2ib_lightning.m2ib.objective import mean_information, similarities
from m2ib_lightning.m2ib.settings import TowerSettings

PAIRS, TOKENS, WIDTH, DRAWS = 2, 5, 7, 3


def make(**settings: object) -> tuple[InformationBottleneck, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(WIDTH, generator=generator, dtype=torch.float64)
    std = torch.rand(WIDTH, generator=generator, dtype=torch.float64) + 0.5
    bottleneck = InformationBottleneck(WIDTH, TowerSettings(**settings), mean=mean, std=std).double()  # type: ignore[arg-type]
    bottleneck.reset(PAIRS, TOKENS)
    bottleneck.alpha.data += torch.randn(bottleneck.alpha.shape, generator=generator, dtype=torch.float64)
    z = torch.randn(PAIRS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    noise = torch.randn(DRAWS, TOKENS, WIDTH, generator=generator, dtype=torch.float64)
    return bottleneck, z, noise


@pytest.mark.parametrize("granularity", ["element", "token"])
def test_information_is_the_divergence_from_the_prior(granularity: str) -> None:
    bottleneck, z, _ = make(granularity=granularity, sigma=0.7)
    whitened = bottleneck.whiten(z)
    posterior = Normal(bottleneck.lambda_ * whitened, (1 - bottleneck.lambda_).expand_as(whitened))
    expected = kl_divergence(posterior, Normal(torch.zeros_like(whitened), torch.ones_like(whitened)))
    torch.testing.assert_close(bottleneck.information(whitened), expected, rtol=1e-9, atol=1e-9)


def test_draws_follow_the_equation_in_the_units_of_the_layer() -> None:
    bottleneck, z, noise = make(sigma=0.7)
    draws = bottleneck(bottleneck.whiten(z), noise)
    lambda_, mean, scale = bottleneck.lambda_, bottleneck.mean, 0.7 * bottleneck.std
    for k in range(DRAWS):
        expected = mean + lambda_ * (z - mean) + scale * (1 - lambda_) * noise[k]
        torch.testing.assert_close(draws[:, k], expected)


def test_sigma_has_an_effect() -> None:
    results = []
    for sigma in (0.5, 2.0):
        bottleneck, z, noise = make(sigma=sigma)
        results.append(bottleneck(bottleneck.whiten(z), noise))
    assert (results[0] - results[1]).abs().max() > 0.1


def test_information_stays_finite_where_the_sigmoid_is_one() -> None:
    bottleneck = InformationBottleneck(WIDTH, TowerSettings(), initial_alpha=60.0)
    bottleneck.reset(1, TOKENS)
    information = bottleneck.information(torch.ones(1, TOKENS, WIDTH))
    assert bottleneck.lambda_.eq(1).all()
    torch.testing.assert_close(information, torch.full_like(information, 60.0))  # -log(1 - lambda) is alpha there


def test_gates_have_the_shape_of_their_granularity() -> None:
    assert make(granularity="element")[0].alpha.shape == (PAIRS, TOKENS, WIDTH)
    assert make(granularity="token")[0].alpha.shape == (PAIRS, TOKENS, 1)


def test_the_terms_of_the_objective() -> None:
    generator = torch.Generator().manual_seed(0)
    information = torch.rand(1, 4, WIDTH, generator=generator)
    embeddings, target = torch.randn(1, DRAWS, 6, generator=generator), torch.randn(1, 6, generator=generator)
    valid = torch.tensor([[True, True, True, False]])
    torch.testing.assert_close(mean_information(information, valid)[0], information[0, :3].mean())
    cosines = torch.stack([e @ target[0] / e.norm() / target[0].norm() for e in embeddings[0]])
    torch.testing.assert_close(similarities(embeddings, target)[0], cosines)


def test_noise_depends_on_seed_modality_and_step_only() -> None:
    shape = (2, 8, 3)
    first = draw_noise(0, "image", 0, shape)
    assert torch.equal(first, draw_noise(0, "image", 0, shape))
    for other in (draw_noise(1, "image", 0, shape), draw_noise(0, "text", 0, shape), draw_noise(0, "image", 1, shape)):
        assert not torch.equal(first, other)


@pytest.mark.parametrize("budget", [0, 10**9])
def test_a_short_caption_gets_the_beginning_of_the_noise(budget: int) -> None:
    bank = NoiseBank(0, "text", (2, 8, 3), budget=budget)
    like = torch.zeros(1, dtype=torch.float64)
    assert torch.equal(bank(4, 5, like), draw_noise(0, "text", 4, (2, 8, 3))[:, :5].double())
    assert torch.equal(bank(4, 8, like), draw_noise(0, "text", 4, (2, 8, 3)).double())


def test_noise_is_cached_up_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []

    def draw(*key: Any) -> torch.Tensor:
        drawn.append(key)
        return draw_noise(*key)

    monkeypatch.setattr(noise_module, "draw_noise", draw)
    shape = (2, 8, 4)  # 256 bytes
    cache = NoiseCache(budget=600)
    first = cache(0, "text", 0, shape)
    assert torch.equal(first, draw_noise(0, "text", 0, shape))
    assert cache(0, "text", 0, shape) is first
    for seed in (1, 2, 0):  # two fit, so seed 0 has been dropped
        cache(seed, "text", 0, shape)
    assert [key[0] for key in drawn] == [0, 1, 2, 0]


def test_the_defaults_are_the_published_values() -> None:
    settings = BottleneckSettings()
    assert (settings.steps, settings.lr, settings.noise_samples, settings.initial_alpha) == (10, 1.0, 10, 5.0)
    for tower in (settings.image, settings.text):
        assert (tower.beta, tower.sigma, tower.granularity, tower.prior) == (0.1, 1.0, "element", "unit")


def test_centred_draws_have_no_mean_and_variance_1() -> None:
    noise = draw_noise(0, "image", 0, (5, 40, 60))
    bank = NoiseBank(0, "image", (5, 40, 60), is_centred=True)
    draws = bank(0, 40, torch.empty(0))
    assert draws.mean(0).abs().max() < 1e-6
    assert abs(float(draws.square().mean()) - float((noise - noise.mean(0)).square().sum(0).mean()) / 4) < 1e-5
    assert abs(float(draws.square().mean()) - 1) < 0.03
    assert torch.equal(
        NoiseBank(0, "image", (1, 4, 6), is_centred=True)(0, 4, torch.empty(0)), draw_noise(0, "image", 0, (1, 4, 6))
    )
