"""The parts of ``task=tune``: the pairs, the trials, what settings are chosen by, and the choice."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from m2ib_lightning import explain, load_model
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.probes import correlation
from m2ib_lightning.evaluation.tuning.choice import BEST, PRESENT, PUBLISHED, Choice, choose
from m2ib_lightning.evaluation.tuning.objectives import BY_FAITHFULNESS, BY_TRUTH, Measures, objective_of
from m2ib_lightning.evaluation.tuning.tower_search import Found
from m2ib_lightning.evaluation.tuning.trials import Trials, partners_of
from m2ib_lightning.evaluation.tuning.tuning_pairs import TuningPairs, read_tuning_pairs
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings, TowerSettings
from m2ib_lightning.methods import Context
from m2ib_lightning.metrics.map_scores import localisation
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.pairs.truth import Truth
from tests.tiny import make_batch, make_model, make_pairs

MODEL = load_model("scenes")
QUICK = replace(resolve(MODEL.preset, MODEL.encoder), steps=2, noise_samples=1)


def scene_batches(count: int, batch_size: int) -> list[PairBatch]:
    data = ScenesDataModule(MODEL.preparer, seed=3, limit=count, batch_size=batch_size, truth=True)
    data.setup("fit")
    return list(data.train_dataloader())


def named_pairs(*images: str, failed: int = 0) -> PairBatch:
    """A batch whose pairs have the given pictures, and further pairs that could not be read."""
    model = make_model("clip")
    batch = make_batch(model, make_pairs(model, [3] * len(images)))
    pairs = [replace(pair, image=image) for pair, image in zip(batch.pairs, images, strict=True)]
    bad = [Pair(f"bad:{row}", "", "", None, error="a reason") for row in range(failed)]
    return PairBatch(pairs, bad, batch.inputs["image"], batch.inputs["text"])


def keys(batches: list[PairBatch]) -> list[str]:
    return [pair.key for batch in batches for pair in batch.pairs]


def pairs_of(pairs: TuningPairs) -> tuple[list[PairBatch], list[PairBatch]]:
    return pairs.selection, pairs.confirmation


def test_the_two_parts_share_no_picture_and_no_pair_is_lost() -> None:
    batches = [named_pairs("a", "b", "a", failed=2), named_pairs("c", "a", "d", "e")]
    pairs = read_tuning_pairs(batches, 4, 10)
    pictures = [
        {pair.image for batch in part for pair in batch.pairs} for part in (pairs.selection, pairs.confirmation)
    ]
    assert pictures == [{"a"}, {"b", "c", "d", "e"}] or not pictures[0] & pictures[1]
    assert len(keys(pairs.selection)) + len(keys(pairs.confirmation)) == 7
    assert [pair.error for pair in pairs.failed] == ["a reason"] * 2


def test_no_more_is_read_than_needed() -> None:
    def batches() -> Any:
        yield named_pairs("a", "b", "c")
        yield named_pairs("d", "e", "f")
        pytest.fail("a third batch was read")

    pairs = read_tuning_pairs(batches(), 2, 3)
    assert len(keys(pairs.selection)) == 2
    assert len(keys(pairs.confirmation)) == 3


def test_the_parts_do_not_depend_on_the_batch_size() -> None:
    first, second = (read_tuning_pairs(scene_batches(9, size), 4, 3) for size in (2, 9))
    assert keys(first.selection) == keys(second.selection) == [f"scenes-3:{k}" for k in range(4)]
    assert keys(first.confirmation) == keys(second.confirmation)


@pytest.mark.parametrize("images", [[], ["a"], ["a", "a", "a"]])
def test_one_picture_is_too_few(images: list[str]) -> None:
    batch = named_pairs(*images, failed=1) if images else PairBatch([], named_pairs("a", failed=1).failed, {}, {})
    with pytest.raises(M2IBError, match=r"pairs of at least two pictures.*and 1 could not \(the first: a reason\)"):
        read_tuning_pairs([batch], 3, 3)


def test_a_partner_has_another_picture_and_another_caption() -> None:
    pair = Pair("k", "k", "a", "one")
    pairs = [pair, replace(pair, caption="two"), replace(pair, image="b"), replace(pair, image="c", caption="three")]
    assert partners_of(pairs) == [3, 3, 1, 1]
    assert partners_of(pairs[:1]) == [None]


def run(batches: list[PairBatch], settings: BottleneckSettings = QUICK, **options: bool) -> Measures:
    trials = Trials(Context(MODEL, QUICK, MODEL.statistics), MODEL.preparer, batches)
    with trials.at_work(torch.device("cpu"), torch.float64):
        return trials.run(settings, **options)


@pytest.mark.slow
def test_a_trial_measures_the_maps_that_explain_gives() -> None:
    batches = scene_batches(3, 3)
    settings = replace(QUICK, image=replace(QUICK.image, layer=1, prior="unit"))
    measures = run(read(batches), settings)
    pairs = [pair for batch in read(batches) for pair in batch.pairs]
    partners: list[Any] = list(partners_of(pairs))
    source: Any = ScenesDataModule(MODEL.preparer, seed=3, limit=3).source
    pictures, captions = [source[k].image for k in range(3)], [str(pair.caption) for pair in pairs]
    model = replace(MODEL, preset=settings)
    results = explain(pictures, captions, model=model, dtype=torch.float64)
    others = explain(pictures, [captions[k] for k in partners], model=model, dtype=torch.float64)
    for row, (result, other) in enumerate(zip(results, others, strict=True)):
        scored = localisation(replace(result, pair=replace(result.pair, truth=pairs[row].truth)))
        assert measures["image_ap"][row] == pytest.approx(scored["image_ap"], abs=1e-6)
        same = correlation(result.image_saliency, other.image_saliency)
        assert measures["image_same"][row] == pytest.approx(max(same, 0), abs=1e-6)
        same = correlation(results[partners[row]].text_saliency, other.text_saliency)
        assert measures["text_same"][row] == pytest.approx(max(same, 0), abs=1e-6)


def read(batches: list[PairBatch]) -> list[PairBatch]:
    return [batch.some(batch.first(len(batch))) for batch in batches]


@pytest.mark.slow
def test_a_trial_does_not_depend_on_the_batch_size_and_curves_are_optional() -> None:
    one, other = (run(read(scene_batches(2, size))) for size in (1, 2))
    assert one.keys() == other.keys() >= {"image_ap", "text_auroc", "image_insertion_raw", "text_deletion_raw"}
    for name, values in one.items():
        assert np.allclose(values, other[name], rtol=0, atol=1e-6, equal_nan=True), name
    assert not {"image_insertion", "image_same"} & run(read(scene_batches(1, 1)), curves=False).keys()


def test_ground_truth_of_half_of_the_pairs_decides_the_objective() -> None:
    bare, masked = Pair("k", "k", "", "a"), Pair("k", "k", "", "a", truth=Truth(np.ones((2, 2), bool), None, []))
    assert objective_of("image", [masked, bare]) is BY_TRUTH["image"]
    assert objective_of("image", [masked, bare, bare]) is BY_FAITHFULNESS["image"]
    assert objective_of("text", [masked, masked]) is BY_FAITHFULNESS["text"]  # its captions have no marked words
    worded = replace(bare, truth=Truth(None, [(0, 1)], []))
    assert objective_of("text", [worded]) is BY_TRUTH["text"]
    assert objective_of("image", [worded]) is BY_FAITHFULNESS["image"]


@pytest.mark.parametrize("modality", ["image", "text"])
def test_the_score_without_truth(modality: Any) -> None:
    measures = {
        f"{modality}_insertion": np.array([1.0, 1.0, 1.0, math.nan]),
        f"{modality}_insertion_raw": np.array([0.5, 0.5, 0.1, 0.5]),
        f"{modality}_deletion_raw": np.array([0.1, 0.1, 0.2, 0.1]),
        f"{modality}_same": np.array([0.25, math.nan, 0.5, 0.0]),
    }
    scores = BY_FAITHFULNESS[modality].score(measures)
    # A map that is worse than its reverse gains nothing from ignoring the other input.
    assert np.allclose(scores, [0.4 * 0.75, 0.4, -0.1 * 1.5, math.nan], equal_nan=True)


SETTINGS = {PUBLISHED: TowerSettings(layer=2), PRESENT: TowerSettings(layer=1), BEST: TowerSettings(layer=0)}


def choice(gain: float, pairs: int, *, noise: float = 0.1, enough: bool = True) -> Choice:
    """The choice where the best settings have ``gain`` more than the present ones, which have 0.5 and noise."""
    rng = np.random.default_rng(0)
    present = 0.5 + 0.3 * rng.normal(size=pairs)
    best = present + gain + noise * rng.normal(size=pairs)
    found = Found(BY_TRUTH["image"], [], SETTINGS[BEST], 3, enough)
    measures = {PUBLISHED: {"image_ap": present - 1}, PRESENT: {"image_ap": present}, BEST: {"image_ap": best}}
    named = [Pair(str(k), str(k), f"picture {k}", "") for k in range(pairs)]
    return choose("image", found, SETTINGS, measures, named, resamples=200, seed=0)


def test_better_settings_are_chosen() -> None:
    chosen = choice(0.1, 50)
    assert chosen.chosen == SETTINGS[BEST]
    assert chosen.differences[BEST].mean == pytest.approx(0.1, abs=0.05)
    assert chosen.differences[PUBLISHED].mean == pytest.approx(-1)
    assert "better than the present preset by +0.1" in chosen.reason


@pytest.mark.parametrize(
    ("gain", "pairs", "enough", "reason"),
    [
        (0.0, 50, True, "not better beyond chance"),
        (-0.1, 50, True, "not better beyond chance"),
        (0.1, 10, True, "10 pictures with a score are too few"),
        (0.1, 50, False, "nothing was searched: only 3 of the pairs"),
    ],
)
def test_else_the_present_preset_stays(gain: float, pairs: int, enough: bool, reason: str) -> None:
    kept = choice(gain, pairs, enough=enough)
    assert kept.chosen == SETTINGS[PRESENT]
    assert reason in kept.reason


def test_the_present_preset_may_be_the_best_found() -> None:
    found = Found(BY_TRUTH["image"], [], SETTINGS[PRESENT], 3, True)
    measures = {name: {"image_ap": np.arange(30.0)} for name in SETTINGS}
    pairs = [Pair(str(k), str(k), str(k), "") for k in range(30)]
    compared = SETTINGS | {BEST: SETTINGS[PRESENT]}
    kept = choose("image", found, compared, measures, pairs, resamples=50, seed=0)
    assert kept.chosen == SETTINGS[PRESENT]
    assert BEST not in kept.differences
    assert "found nothing better" in kept.reason
