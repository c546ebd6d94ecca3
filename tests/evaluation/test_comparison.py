"""Means, intervals and differences against slow loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.bootstrap import Estimate, Resamples, estimate_auc, estimate_means, weighted_auc
from m2ib_lightning.evaluation.comparison import compare
from m2ib_lightning.evaluation.comparison_report import to_markdown


def frame(values: dict[tuple[str, int, str], list[float]]) -> Any:
    """A table of scores from lists of one value per pair, by (method, seed, measure)."""
    rows = [
        (f"pairs:{pair}", method, seed, measure, value)
        for (method, seed, measure), numbers in values.items()
        for pair, value in enumerate(numbers)
    ]
    return pd.DataFrame(rows, columns=["key", "method", "seed", "measure", "value"])


def normal(seed: int, count: int = 40) -> list[float]:
    return list(np.random.default_rng(seed).normal(size=count))


def test_means_are_over_pairs_of_means_over_seeds() -> None:
    scores = frame({("a", 0, "image_ap"): [1.0, 2.0, np.nan], ("a", 1, "image_ap"): [3.0, np.nan, np.nan]})
    estimate = compare(scores, ["a"], "m2ib").estimates["image_ap"]["a"]
    assert estimate.mean == 2.0  # the pairs' means are 2 and 2
    assert (estimate.pairs, estimate.left_out) == (2, 1)


def test_an_interval_is_that_of_a_plain_bootstrap() -> None:
    values = normal(0)
    estimate = compare(frame({("a", 0, "image_ap"): values}), ["a"], "m2ib", resamples=4000).estimates["image_ap"]["a"]
    rng = np.random.default_rng(99)
    means = [rng.choice(values, len(values)).mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    assert estimate.low == pytest.approx(low, abs=0.03)  # two bootstraps of 4,000 differ by about 0.01
    assert estimate.high == pytest.approx(high, abs=0.03)
    assert estimate.mean == pytest.approx(np.mean(values))


def test_a_95_per_cent_interval_covers_the_truth_in_95_per_cent() -> None:
    resamples = Resamples(np.arange(40).astype(object), 200, seed=0)
    covered = 0
    for seed in range(200):
        estimate = estimate_means(np.array(normal(seed))[:, None], ["a"], resamples)["a"]
        covered += estimate.low <= 0 <= estimate.high
    assert 175 <= covered <= 200  # 95 % of 200 is 190; four standard errors


def captions_of(pictures: int, captions: int, seed: int) -> Any:
    """Scores that are nearly the same for all captions of a picture."""
    rng = np.random.default_rng(seed)
    values = np.repeat(rng.normal(size=pictures), captions) + 0.1 * rng.normal(size=pictures * captions)
    scores = frame({("a", 0, "image_ap"): list(values)})
    return scores.assign(image=[f"{pair // captions}.png" for pair in range(pictures * captions)])


def test_captions_of_one_picture_are_drawn_together() -> None:
    scores = captions_of(40, 5, 0)
    estimate = compare(scores, ["a"], "m2ib", resamples=4000).estimates["image_ap"]["a"]
    assert (estimate.pairs, estimate.pictures) == (200, 40)
    values = scores["value"].to_numpy().reshape(40, 5)
    rng = np.random.default_rng(99)
    means = [values[rng.integers(0, 40, 40)].mean() for _ in range(4000)]
    low, high = np.percentile(means, [2.5, 97.5])
    assert estimate.low == pytest.approx(low, abs=0.03)
    assert estimate.high == pytest.approx(high, abs=0.03)
    alone = compare(scores.drop(columns="image"), ["a"], "m2ib").estimates["image_ap"]["a"]
    assert alone.high - alone.low < 0.6 * (
        estimate.high - estimate.low
    )  # sqrt(1 / 5), as 5 captions count as 5 pictures


def test_pairs_of_unknown_pictures_are_drawn_alone() -> None:
    scores = captions_of(30, 2, 1)
    unknown = compare(scores.assign(image=None), ["a"], "m2ib").estimates["image_ap"]["a"]
    assert unknown == compare(scores.drop(columns="image"), ["a"], "m2ib").estimates["image_ap"]["a"]
    assert unknown.pictures == 60


def test_differences_are_paired() -> None:
    """Two methods differ little on pairs that differ much: the difference is clear, the means are not."""
    base = normal(3)
    other = [value + 0.1 + noise / 100 for value, noise in zip(base, normal(4), strict=True)]
    comparison = compare(frame({("m2ib", 0, "image_ap"): base, ("b", 0, "image_ap"): other}), ["m2ib", "b"], "m2ib")
    means, difference = comparison.estimates["image_ap"], comparison.differences["image_ap"]["b"]
    assert means["b"].low < means["m2ib"].high
    assert difference.excludes_zero
    assert difference.mean == pytest.approx(np.mean(np.subtract(other, base)))
    assert comparison.best("image_ap") == {"b"}


def test_a_difference_needs_both_scores() -> None:
    values = {("m2ib", 0, "image_ap"): [1.0, np.nan, 3.0], ("b", 0, "image_ap"): [2.0, 5.0, np.nan]}
    difference = compare(frame(values), ["m2ib", "b"], "m2ib").differences["image_ap"]["b"]
    assert (difference.mean, difference.pairs) == (1.0, 1)


def test_the_best_method_depends_on_the_measures_direction() -> None:
    values = {
        (method, 0, measure): [number] * 3
        for (method, number), measure in itertools.product(
            [("a", 1.0), ("b", 2.0)], ["image_drop", "image_ap", "image_map_mass"]
        )
    }
    comparison = compare(frame(values), ["a", "b"], "m2ib")
    assert comparison.best("image_drop") == {"a"}
    assert comparison.best("image_ap") == {"b"}
    assert comparison.best("image_map_mass") == set()
    assert comparison.differences == {}  # the baseline has no scores


def test_matched_auc_is_that_of_scikit_learn() -> None:
    matched, shuffled = normal(5), [value + 0.7 for value in normal(6)]
    scores = frame({("m2ib", 0, "loss_matched"): matched, ("m2ib", 0, "loss_shuffled"): shuffled})
    estimate = compare(scores, ["m2ib"], "m2ib").estimates["matched_auc"]["m2ib"]
    labels = [0] * len(matched) + [1] * len(shuffled)
    assert estimate.mean == pytest.approx(roc_auc_score(labels, matched + shuffled))
    assert 0.5 < estimate.low < estimate.mean < estimate.high <= 1


def slow_auc(matched: list[float], shuffled: list[float], weights: list[float]) -> float:
    """Over all pairs of losses, one by one."""
    wins = sum(
        weights[i] * weights[j] * ((low < high) + 0.5 * (low == high))
        for i, low in enumerate(matched)
        for j, high in enumerate(shuffled)
    )
    return wins / sum(weights) ** 2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ties", [False, True])
def test_a_weighted_auc_is_its_definition(seed: int, ties: bool) -> None:
    draw = np.random.default_rng(seed)
    matched, shuffled = draw.integers(-3, 3, (2, 30)).astype(float) if ties else draw.normal(size=(2, 30))
    matched[0], shuffled[1] = np.inf, -np.inf
    weights = draw.multinomial(30, np.full(30, 1 / 30), size=5).astype(float)
    expected = [slow_auc(matched.tolist(), shuffled.tolist(), row) for row in weights.tolist()]
    assert weighted_auc(matched, shuffled, weights) == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_aucs_interval_is_the_bootstraps_over_pictures() -> None:
    draw = np.random.default_rng(8)
    matched, shuffled = draw.normal(size=12), draw.normal(size=12) + 0.5
    resamples = Resamples(np.array([f"{pair // 2}.png" for pair in range(12)], dtype=object), 60, seed=3)
    estimate = estimate_auc(matched, shuffled, resamples)
    weights = np.concatenate(list(resamples.weights()))
    areas = [slow_auc(matched.tolist(), shuffled.tolist(), row) for row in weights.tolist()]
    assert (weights[:, ::2] == weights[:, 1::2]).all()  # both captions of a picture
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(areas, [2.5, 97.5])), rel=0, abs=1e-12)
    assert estimate.mean == pytest.approx(slow_auc(matched.tolist(), shuffled.tolist(), [1] * 12), rel=0, abs=1e-12)
    assert (estimate.pairs, estimate.pictures) == (12, 6)


def test_the_last_stage_of_the_cascade_is_the_measure() -> None:
    values = {("a", 0, f"image_randomised_{percent}"): [percent / 100] * 3 for percent in (17, 50, 100)}
    comparison = compare(frame(values), ["a"], "m2ib")
    assert comparison.estimates["image_randomised"]["a"].mean == 1.0
    assert [percent for percent, _ in comparison.cascade["image"]["a"]] == [17, 50, 100]


def test_the_same_seed_gives_the_same_intervals() -> None:
    scores = frame({("a", 0, "image_ap"): normal(7)})
    one, two, other = (compare(scores, ["a"], "m2ib", seed=seed).estimates["image_ap"]["a"] for seed in (0, 0, 1))
    assert one == two != other


def test_too_few_resamples_are_refused() -> None:
    with pytest.raises(M2IBError, match="at least 2, got 1"):
        compare(frame({}), [], "m2ib", resamples=1)


def test_markdown_marks_the_best_the_differences_and_the_left_out_pairs() -> None:
    values = {
        ("m2ib", 0, "image_ap"): [*[0.5, 0.6, 0.5] * 7, np.nan],
        ("b|c", 0, "image_ap"): [*[0.8, 0.9, 0.8] * 7, np.nan],
        ("d", 0, "image_drop"): [0.1, 0.2, 0.3, 0.4],
    }
    text = to_markdown(compare(frame(values), ["m2ib", "b|c", "d"], "m2ib"), ["a note"])
    assert "- a note" in text
    assert "| m2ib | 0.533 [" in text
    assert "| b\\|c | **0.833\\* [" in text
    assert "| d | - |" in text
    assert "image ap: average precision of its pixels (21 pairs, not defined for up to 1 more)" in text


def test_an_estimate_excludes_zero_on_either_side() -> None:
    assert Estimate(1, 0.5, 2, 100, pictures=30).excludes_zero
    assert Estimate(-1, -2, -0.5, 100, pictures=30).excludes_zero
    assert not Estimate(0.1, -0.5, 1, 100, pictures=30).excludes_zero
    assert not Estimate(1, 0.5, 2, 100, pictures=3).excludes_zero  # the bootstrap of three pictures is too narrow


def test_the_randomised_correlation_nearest_to_zero_is_best() -> None:
    values = {("m2ib", 0, "image_randomised_100"): [0.2] * 20, ("b", 0, "image_randomised_100"): [-0.7] * 20}
    comparison = compare(frame(values), ["m2ib", "b"], "m2ib")
    assert comparison.best("image_randomised") == {"m2ib"}
    assert comparison.differences["image_randomised"]["b"].mean == pytest.approx(-0.9)
