"""Each metric against its definition, written out slowly or computed by another library."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from captum.metrics import sensitivity_max
from scipy.stats import entropy, spearmanr
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

from m2ib_lightning import metrics
from m2ib_lightning.errors import M2IBError

Score = Callable[[Tensor, Tensor], Tensor]

SEEDS = range(8)
LOCALISATION: list[Score] = [
    metrics.pointing_game,
    metrics.mass_accuracy,
    metrics.rank_accuracy,
    metrics.iou,
    metrics.best_iou,
    metrics.auroc,
    metrics.average_precision,
]
OF_THE_ORDER = [score for score in LOCALISATION if score not in (metrics.mass_accuracy, metrics.iou)]


def a_pair(seed: int, ties: bool = False) -> tuple[Tensor, Tensor]:
    """A signed map (9, 7) with values far outside [0, 1], and a target of about a third of it."""
    draw = np.random.default_rng(seed)
    saliency = draw.integers(-3, 4, (9, 7)) if ties else 50 * draw.standard_normal((9, 7))
    return torch.from_numpy(saliency.astype(np.float64)), torch.from_numpy(draw.random((9, 7)) < 0.3)


@pytest.fixture(params=[False, True], ids=["distinct", "ties"])
def ties(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


# Localisation


def slow_pointing(saliency: np.ndarray, target: np.ndarray, tolerance: int) -> float:
    tops = np.argwhere(saliency == saliency.max())
    near = [
        target[max(y - tolerance, 0) : y + tolerance + 1, max(x - tolerance, 0) : x + tolerance + 1] for y, x in tops
    ]
    return float(np.mean([window.any() for window in near]))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tolerance", [0, 1, 3, 20])
def test_pointing_game(seed: int, tolerance: int, ties: bool) -> None:
    saliency, target = a_pair(seed, ties)
    expected = slow_pointing(saliency.numpy(), target.numpy(), tolerance)
    assert metrics.pointing_game(saliency, target, tolerance).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_mass_accuracy(seed: int, ties: bool) -> None:
    saliency, target = a_pair(seed, ties)
    positive = [(max(a, 0.0), m) for a, m in zip(saliency.flatten().tolist(), target.flatten().tolist(), strict=True)]
    expected = sum(a for a, m in positive if m) / sum(a for a, _ in positive)
    assert metrics.mass_accuracy(saliency, target).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_rank_accuracy_of_distinct_values(seed: int) -> None:
    saliency, target = a_pair(seed)
    pixels, size = np.where(target.numpy().ravel())[0], int(target.sum())
    top = np.argsort(saliency.numpy().ravel())[-size:]  # as Quantus does
    assert metrics.rank_accuracy(saliency, target).item() == pytest.approx(len(np.intersect1d(pixels, top)) / size)


def test_rank_accuracy_of_ties_is_the_mean_over_their_orders() -> None:
    saliency, target = a_pair(1, ties=True)
    draw, size = np.random.default_rng(0), int(target.sum())
    values, inside = saliency.numpy().ravel(), target.numpy().ravel()
    broken = [inside[np.lexsort((draw.random(values.size), -values))[:size]].mean() for _ in range(4000)]
    error = np.std(broken) / math.sqrt(len(broken))
    assert error > 0
    assert abs(metrics.rank_accuracy(saliency, target).item() - np.mean(broken)) < 4 * error


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.5, 1.0])
def test_iou(seed: int, threshold: float, ties: bool) -> None:
    saliency, target = a_pair(seed, ties)
    heatmap = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    lit = {i for i, value in enumerate(heatmap.flatten().tolist()) if value >= threshold}
    inside = {i for i, hit in enumerate(target.flatten().tolist()) if hit}
    assert metrics.iou(saliency, target, threshold).item() == pytest.approx(len(lit & inside) / len(lit | inside))


@pytest.mark.parametrize("seed", SEEDS)
def test_best_iou(seed: int, ties: bool) -> None:
    saliency, target = a_pair(seed, ties)
    masks = [saliency >= value for value in saliency.unique()]
    expected = max(((mask & target).sum() / (mask | target).sum()).item() for mask in masks)
    assert metrics.best_iou(saliency, target).item() == pytest.approx(expected, abs=1e-7)  # the slow one is float32


@pytest.mark.parametrize("seed", SEEDS)
def test_auroc_and_average_precision_are_those_of_scikit_learn(seed: int, ties: bool) -> None:
    saliency, target = a_pair(seed, ties)
    flat = (target.numpy().ravel(), saliency.numpy().ravel())
    assert metrics.auroc(saliency, target).item() == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    assert metrics.average_precision(saliency, target).item() == pytest.approx(
        average_precision_score(*flat), abs=1e-12
    )


@pytest.mark.parametrize("score", LOCALISATION)
def test_a_perfect_map_scores_one_and_its_opposite_less(score: Score) -> None:
    _, target = a_pair(0)
    assert score(target.float(), target).item() == 1
    assert score((~target).float(), target).item() < 0.5


@pytest.mark.parametrize("score", LOCALISATION)
def test_a_constant_map_scores_as_chance(score: Score) -> None:
    _, target = a_pair(0)
    share = target.double().mean().item()
    fixed: dict[Score, float] = {metrics.auroc: 0.5, metrics.iou: 0.0}
    expected = fixed.get(score, share)
    for value in (0.0, 3.0, -3.0):
        assert score(torch.full(target.shape, value), target).item() == pytest.approx(expected, abs=1e-12), value


@pytest.mark.parametrize("score", OF_THE_ORDER)
@pytest.mark.parametrize("seed", SEEDS)
def test_only_the_order_of_values_matters(score: Score, seed: int, ties: bool) -> None:
    saliency, target = a_pair(seed, ties)
    for rescaled in (7 * saliency + 1000, saliency**3, torch.atan(saliency / 50)):
        assert score(rescaled, target).item() == pytest.approx(score(saliency, target).item(), abs=1e-12)


@pytest.mark.parametrize("score", [metrics.mass_accuracy, metrics.iou])
def test_mass_and_iou_depend_on_the_values(score: Score) -> None:
    saliency, target = a_pair(0)
    saliency = saliency - saliency.min()
    assert score(7 * saliency, target).item() == pytest.approx(score(saliency, target).item(), abs=1e-12)
    assert score(saliency**3, target).item() != pytest.approx(score(saliency, target).item(), abs=1e-3)


@pytest.mark.parametrize("score", LOCALISATION)
def test_shape_and_type_of_the_map_do_not_matter(score: Score) -> None:
    saliency, target = a_pair(3, ties=True)
    expected = score(saliency, target)
    assert expected.dtype == torch.float64
    assert expected.shape == ()
    for same in (saliency.float(), saliency.bfloat16(), saliency.long(), saliency.clone().requires_grad_()):
        torch.testing.assert_close(score(same, target), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(score(saliency.flatten(), target.flatten()), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("score", LOCALISATION)
def test_an_undefined_score_is_nan(score: Score) -> None:
    saliency, target = a_pair(0)
    assert score(saliency, torch.zeros_like(target)).isnan()
    assert score(torch.zeros(0), torch.zeros(0, dtype=torch.bool)).isnan()
    everything = score(saliency, torch.ones_like(target))
    assert everything.isnan() if score is metrics.auroc else not everything.isnan()
    for bad in (math.nan, math.inf, -math.inf):
        spoiled = saliency.clone()
        spoiled[0, 0] = bad
        assert score(spoiled, target).isnan(), bad


@pytest.mark.parametrize("score", LOCALISATION)
def test_a_target_that_does_not_fit_is_refused(score: Score) -> None:
    saliency, target = a_pair(0)
    with pytest.raises(M2IBError, match=r"one shape expected, got saliency \(9, 7\), target \(7, 9\)"):
        score(saliency, target.T)
    with pytest.raises(M2IBError, match=r"target must be bool, got torch\.float32"):
        score(saliency, target.float())


def test_bad_settings_are_refused() -> None:
    saliency, target = a_pair(0)
    with pytest.raises(M2IBError, match=r"tolerance .* got -1"):
        metrics.pointing_game(saliency, target, -1)
    with pytest.raises(M2IBError, match=r"tolerance .* got 2 for \(63,\)"):
        metrics.pointing_game(saliency.flatten(), target.flatten(), 2)
    with pytest.raises(M2IBError, match=r"threshold must be from 0 to 1, got 50"):
        metrics.iou(saliency, target, 50)


def test_random_maps_point_at_the_target_as_often_as_it_is_large() -> None:
    _, target = a_pair(5)
    share, maps = target.double().mean().item(), 2000
    draw = torch.Generator().manual_seed(0)
    hits = [metrics.pointing_game(torch.rand(target.shape, generator=draw), target).item() for _ in range(maps)]
    assert abs(np.mean(hits) - share) < 3 * math.sqrt(share * (1 - share) / maps)


# Confidence


def test_drop_and_increase_are_those_of_pytorch_grad_cam() -> None:
    clean, masked = torch.tensor([0.3, 0.3, 0.3, -0.2]), torch.tensor([0.1, 0.3, 0.4, -0.3])
    change = [after - before for before, after in zip(clean.tolist(), masked.tolist(), strict=True)]
    assert metrics.confidence_drop(clean, masked).tolist() == [max(0.0, -delta) for delta in change]
    assert metrics.confidence_increase(clean, masked).tolist() == [float(delta > 0) for delta in change]
    assert metrics.confidence_increase(clean, masked).tolist() == [0, 0, 1, 0]


def test_a_map_of_ones_drops_nothing_and_keeps_everything() -> None:
    image, weight = torch.rand(3, 8, 8), torch.randn(3, 8, 8)
    heatmap = torch.ones(8, 8)
    clean, masked = (weight * image).sum(), (weight * (image * heatmap)).sum()
    assert metrics.confidence_drop(clean, masked).item() == 0
    assert metrics.confidence_increase(clean, masked).item() == 0
    assert metrics.map_mass(heatmap).item() == 1


def test_confidence_of_a_score_that_is_nan_is_nan() -> None:
    clean, masked = torch.tensor([math.nan, 0.5]), torch.tensor([0.5, math.nan])
    assert metrics.confidence_drop(clean, masked).isnan().all()
    assert metrics.confidence_increase(clean, masked).isnan().all()


def test_confidence_refuses_bad_inputs() -> None:
    for score in (metrics.confidence_drop, metrics.confidence_increase):
        with pytest.raises(M2IBError, match=r"clean \(3,\), masked \(2,\)"):
            score(torch.zeros(3), torch.zeros(2))
    with pytest.raises(M2IBError, match=r"heatmap must be in \[0, 1\], got values from 0 to 7"):
        metrics.map_mass(torch.tensor([0.0, 7.0]))


# Curves


def test_area_under_a_curve_is_the_trapezoid_rule() -> None:
    scores = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 12)))
    expected = np.trapezoid(scores.numpy(), np.linspace(0, 1, 12))
    torch.testing.assert_close(metrics.area_under(scores), torch.from_numpy(expected), rtol=0, atol=1e-12)


def test_a_normalised_area_scales_the_curve_first() -> None:
    draw = np.random.default_rng(1)
    scores, clean, empty = draw.random((5, 9)), 1 + draw.random(5), -draw.random(5)
    expected = [
        np.trapezoid((s - e) / (c - e), np.linspace(0, 1, 9)) for s, c, e in zip(scores, clean, empty, strict=True)
    ]
    area = metrics.normalised_area(*(torch.from_numpy(part) for part in (scores, clean, empty)))
    torch.testing.assert_close(area, torch.tensor(expected), rtol=0, atol=1e-12)


def test_a_normalised_area_needs_something_to_explain() -> None:
    area = metrics.normalised_area(torch.rand(3, 5), torch.tensor([0.2, 0.3, 0.4]), torch.tensor([0.3, 0.3, 0.3]))
    assert area.isnan().tolist() == [True, True, False]


def test_curves_that_do_not_fit_are_refused() -> None:
    for scores in (torch.tensor(1.0), torch.rand(3, 1)):
        with pytest.raises(M2IBError, match=r"scores must be \(\.\.\., N\) with at least 2 steps"):
            metrics.area_under(scores)
    with pytest.raises(M2IBError, match=r"curves \(3,\), clean \(2,\), empty \(3,\)"):
        metrics.normalised_area(torch.rand(3, 5), torch.rand(2), torch.rand(3))


# Structure


@pytest.mark.parametrize("seed", SEEDS)
def test_sparseness_is_the_gini_index(seed: int, ties: bool) -> None:
    saliency = a_pair(seed, ties)[0]
    a = saliency.abs().flatten().tolist()
    expected = sum(abs(x - y) for x in a for y in a) / (2 * len(a) * sum(a))  # half the relative mean difference
    assert metrics.sparseness(saliency).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_complexity_is_the_entropy(seed: int, ties: bool) -> None:
    saliency = a_pair(seed, ties)[0]
    assert metrics.complexity(saliency).item() == pytest.approx(entropy(saliency.abs().numpy().ravel()), abs=1e-12)


def test_the_ends_of_sparseness_and_complexity() -> None:
    one = torch.zeros(4, 5)
    one[2, 2] = -3
    assert metrics.sparseness(one).item() == pytest.approx(1 - 1 / 20, abs=1e-12)
    assert metrics.complexity(one).item() == 0
    for constant in (torch.zeros(4, 5), torch.full((4, 5), -2.0)):
        assert metrics.sparseness(constant).item() == pytest.approx(0, abs=1e-12)
        assert metrics.complexity(constant).item() == pytest.approx(math.log(20), abs=1e-12)
    for score in (metrics.sparseness, metrics.complexity):
        assert score(torch.tensor([1.0, math.nan])).isnan()
        assert score(torch.zeros(0)).isnan()


# Agreement


@pytest.mark.parametrize("seed", SEEDS)
def test_spearman_is_that_of_scipy(seed: int, ties: bool) -> None:
    a, b = a_pair(seed, ties)[0], a_pair(seed + 100, ties)[0]
    expected = spearmanr(a.numpy().ravel(), b.numpy().ravel()).statistic
    assert metrics.spearman(a, b).item() == pytest.approx(expected, abs=1e-12)


def test_spearman_depends_only_on_the_order() -> None:
    a = a_pair(0)[0]
    assert metrics.spearman(a, torch.exp(a / 50)).item() == 1
    assert metrics.spearman(a, -(a**3)).item() == -1


def test_spearman_of_a_constant_map_is_nan() -> None:
    a = a_pair(0)[0]
    assert metrics.spearman(a, torch.ones_like(a)).isnan()
    assert metrics.spearman(torch.ones_like(a), a).isnan()
    assert metrics.spearman(a, a / 0).isnan()
    with pytest.raises(M2IBError, match=r"a \(9, 7\), b \(7, 9\)"):
        metrics.spearman(a, a.T)


def test_max_sensitivity_is_that_of_captum() -> None:
    inputs = torch.from_numpy(np.random.default_rng(2).random((1, 6, 5)))
    seen: list[Tensor] = []

    def explain(x: Tensor | tuple[Tensor]) -> tuple[Tensor]:
        (values,) = x if isinstance(x, tuple) else (x,)
        seen.append(torch.sin(3 * values) ** 2 - 0.3)
        return (seen[-1],)

    expected = sensitivity_max(explain, inputs, perturb_radius=0.3, n_perturb_samples=7)
    saliency, perturbed = seen  # of the input, and of the seven around it
    assert len(perturbed) == 7
    assert metrics.max_sensitivity(saliency[0], perturbed).item() == pytest.approx(expected.item(), abs=1e-12)


def test_max_sensitivity_of_bad_maps() -> None:
    assert metrics.max_sensitivity(torch.zeros(3), torch.rand(2, 3)).isnan()
    assert metrics.max_sensitivity(torch.ones(3), torch.full((2, 3), math.nan)).isnan()
    for perturbed in (torch.rand(3), torch.rand(2, 4), torch.rand(0, 3)):
        with pytest.raises(M2IBError, match=r"perturbed must hold maps of the saliency's shape \(3,\), got"):
            metrics.max_sensitivity(torch.ones(3), perturbed)


# Sanity


@pytest.mark.parametrize("seed", SEEDS)
def test_matched_auc_counts_the_pairs_of_losses(seed: int) -> None:
    draw = np.random.default_rng(seed)
    matched, shuffled = draw.integers(0, 9, 13) - 2.0, draw.integers(0, 9, 21) * 1.0
    wins = [(low < high) + 0.5 * (low == high) for low in matched for high in shuffled]
    value = metrics.matched_auc(torch.from_numpy(matched), torch.from_numpy(shuffled)).item()
    assert value == pytest.approx(np.mean(wins), abs=1e-12)
    labels = np.repeat([1, 0], [13, 21])
    assert value == pytest.approx(roc_auc_score(labels, -np.concatenate([matched, shuffled])), abs=1e-12)


def test_matched_auc_of_nothing_is_nan() -> None:
    some, none = torch.rand(3), torch.zeros(0)
    assert metrics.matched_auc(some, none).isnan()
    assert metrics.matched_auc(none, some).isnan()
    assert metrics.matched_auc(some, torch.tensor([0.1, math.nan])).isnan()
