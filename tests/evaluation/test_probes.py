"""Probes (random weights, other captions, noise) and the ground truth of scenes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from m2ib_lightning import load_model
from m2ib_lightning.datamodules.scenes import ScenesDataModule, SceneSource
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import PairError
from m2ib_lightning.evaluation.probes import correlation, prompts, sensitivity
from m2ib_lightning.evaluation.randomised import RandomisedModel
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.pairs.truth import RawTruth, gibberish, read_truth
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.m2ib.test_invariants import assert_unchanged, snapshot
from tests.tiny import FAMILIES, make_model


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cascade_goes_from_the_top_to_everything(family: str) -> None:
    model = make_model(family)
    before = snapshot(model)
    randomised = RandomisedModel(LoadedModel(Encoder(model), None), seed=0)
    copy = randomised.model.encoder.model
    changed: list[set[str]] = []
    percents = []
    for percent in randomised.cascade():
        percents.append(percent)
        pairs = zip(model.named_parameters(), copy.parameters(), strict=True)
        changed.append({name for (name, original), other in pairs if not torch.equal(original, other)})
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert len(percents) == 5  # above the blocks, three blocks, the embeddings
    assert all(one < other for one, other in itertools.pairwise(changed))
    assert not any("layers" in name or "embed" in name for name in changed[0])
    assert any("layers.2" in name for name in changed[1])
    assert not any("layers.1" in name or "embed" in name for name in changed[1])
    differing = {name for name, p in model.named_parameters() if p.numel() > 1 and p.min() < p.max()}
    assert changed[-1] == differing  # shuffling does not change a constant one (the gain of a fresh norm)
    assert_unchanged(model, before)


def test_each_cascade_starts_from_the_original_and_is_keyed_by_the_seed() -> None:
    model = LoadedModel(Encoder(make_model("clip")), None)

    def last(seed: int, times: int) -> dict[str, torch.Tensor]:
        randomised = RandomisedModel(model, seed)
        for _ in range(times):
            for _ in randomised.cascade():
                pass
        return dict(randomised.model.encoder.model.state_dict())

    once, twice, other = last(0, 1), last(0, 2), last(1, 1)
    assert all(torch.equal(once[name], twice[name]) for name in once)
    assert any(not torch.equal(once[name], other[name]) for name in once)


def test_a_deep_model_has_six_stops() -> None:
    randomised = RandomisedModel(LoadedModel(Encoder(make_model("clip", blocks=12)), None), 0)
    assert len(list(randomised.cascade())) == 6


def test_correlation() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(8, 8)).astype(np.float32)
    assert correlation(values, np.exp(values)) == pytest.approx(1)
    assert correlation(values, -values) == pytest.approx(-1)
    assert correlation(values, np.ones_like(values)) == 0.0  # the order is lost
    assert np.isnan(correlation(np.ones_like(values), values))  # there was no order to lose


def scenes_batch(probed: int = 3, count: int = 3, **options: Any) -> tuple[LoadedModel, PairBatch]:
    model = load_model("scenes")
    datamodule = ScenesDataModule(
        model.preparer, seed=4, limit=count, batch_size=count, truth=True, probed=probed, **options
    )
    datamodule.setup("fit")
    (batch,) = datamodule.train_dataloader()
    return model, batch


def test_scenes_come_with_the_ground_truth_of_their_maps() -> None:
    _, batch = scenes_batch()
    source = SceneSource(4, truth=True)
    for pair in batch.pairs:
        example = source.example(pair.position)
        assert pair.truth is not None
        assert pair.truth.mask is not None
        assert np.array_equal(pair.truth.mask, example.scene.masks[0] > 0.5)
        content = pair.truth.content_tokens(pair.token_offsets)
        assert content is not None
        content_words = [token for token, flag in zip(pair.tokens, content, strict=True) if flag]
        assert content_words == [
            word for word, owner in zip(example.caption.words, example.caption.owners, strict=True) if owner >= 0
        ]
        others = {other.kind: other for other in pair.truth.others}
        assert set(others) == {"present", "absent", "gibberish", "shuffled"}
        assert np.array_equal(others["present"].mask, example.scene.masks[1] > 0.5)  # type: ignore[arg-type]
        assert others["absent"].mask is None
        assert others["gibberish"].text == gibberish(pair.key, len(pair.caption.split()))  # type: ignore[union-attr]
        assert others["shuffled"].text != pair.caption


def test_ground_truth_changes_no_scene() -> None:
    with_truth, without = SceneSource(4, truth=True), SceneSource(4)
    for index in range(5):
        one, other = with_truth[index], without[index]
        assert one.caption == other.caption
        assert np.array_equal(np.asarray(one.image), np.asarray(other.image))
        assert other.truth is None


def test_a_pairs_probes_do_not_depend_on_how_many_are_probed() -> None:
    _, few = scenes_batch(probed=1)
    _, many = scenes_batch(probed=3)
    first = {pair.position: pair for pair in few.pairs}
    for pair in many.pairs:
        texts = [other.text for other in pair.truth.others]  # type: ignore[union-attr]
        fewer = [other.text for other in first[pair.position].truth.others]  # type: ignore[union-attr]
        assert texts[: len(fewer)] == fewer
        assert len(fewer) == (4 if pair.position == 0 else 2)


def word_lengths(batch: PairBatch) -> list[Attribution]:
    """A method whose map is the lengths of the caption's words, and whose loss is their number."""
    results = []
    for pair in batch.pairs:
        saliency = np.resize(np.array([len(token) for token in pair.tokens], np.float32), (8, 8))
        loss = np.array([len(pair.tokens)], np.float32)
        part = TowerAttribution(saliency, loss, loss, loss)
        text = TowerAttribution(np.arange(len(pair.tokens), dtype=np.float32), loss, loss, loss)
        results.append(Attribution(pair, image=part, text=text))
    return results


def test_each_pair_gets_its_own_other_captions() -> None:
    model, batch = scenes_batch()
    results = word_lengths(batch)
    scores = prompts(word_lengths, batch, results, model.preparer)
    for pair, by_name in zip(batch.pairs, scores, strict=True):
        assert set(by_name) == {
            *("prompt_present", "prompt_absent", "prompt_gibberish", "prompt_pointing", "loss_matched", "loss_shuffled")
        }
        others = {other.kind: other.text for other in pair.truth.others}  # type: ignore[union-attr]
        assert by_name["loss_matched"] == 2 * len(pair.tokens)
        assert by_name["loss_shuffled"] == 2 * len(others["shuffled"].split())
        lengths = [
            np.resize([len(w) for w in text.split()], (8, 8)) for text in (pair.caption or "", others["present"])
        ]
        expected = correlation(*(values.astype(np.float32) for values in lengths))
        assert by_name["prompt_present"] == pytest.approx(expected, nan_ok=True)


def test_a_pair_without_other_captions_has_no_prompt_scores() -> None:
    model, batch = scenes_batch()
    bare = PairBatch([replace(p, truth=None) for p in batch.pairs], [], batch.inputs["image"], batch.inputs["text"])
    assert prompts(word_lengths, bare, word_lengths(bare), model.preparer) == [{}, {}, {}]


def test_sensitivity_is_the_largest_relative_change() -> None:
    _, batch = scenes_batch()

    def brightness(batch: PairBatch) -> list[Attribution]:
        means = batch.inputs["image"]["pixel_values"].mean((1, 2, 3)).numpy()
        part = [TowerAttribution(np.full((8, 8), mean, np.float32)) for mean in means]
        return [Attribution(p, image=one, text=one) for p, one in zip(batch.pairs, part, strict=True)]

    calls: list[PairBatch] = []

    def recorded(batch: PairBatch) -> list[Attribution]:
        calls.append(batch)
        return brightness(batch)

    results = brightness(batch)
    scores = sensitivity(recorded, batch, results, seed=0)
    assert len(calls) == 3
    clean = batch.inputs["image"]["pixel_values"]
    for index, by_name in enumerate(scores):
        mean = clean[index].mean().item()
        changes = [abs(call.inputs["image"]["pixel_values"][index].mean().item() - mean) / abs(mean) for call in calls]
        assert by_name["image_sensitivity"] == pytest.approx(max(changes), rel=1e-3)
    assert all((call.inputs["image"]["pixel_values"] - clean).abs().max() <= 0.05 + 1e-6 for call in calls)


def test_masks_and_boxes_are_read(tmp_path: Path) -> None:
    left = np.zeros((4, 6), np.bool_)
    left[:, :3] = True
    Image.fromarray(left).save(tmp_path / "mask.png")
    read = read_truth(RawTruth(tmp_path / "mask.png"), (6, 4))
    assert np.array_equal(read.mask, left)  # type: ignore[arg-type]
    assert not read.resized
    large = read_truth(RawTruth(left), (12, 8))
    assert large.resized
    assert np.array_equal(large.mask, left.repeat(2, 0).repeat(2, 1))  # type: ignore[arg-type]
    boxed = read_truth(RawTruth(boxes=[[0, 0, 3, 4]]), (6, 4))
    assert np.array_equal(boxed.mask, left)  # type: ignore[arg-type]
    beyond = read_truth(RawTruth(boxes=[[-5, -5, 8, 100]]), (6, 4))
    assert np.array_equal(beyond.mask, left)  # type: ignore[arg-type]
    assert read_truth(RawTruth(), (6, 4)).mask is None
    bad_boxes: list[Any] = [[[1, 2, 3]], ["abcd"], [[0, 0, float("nan"), 1]], [[0, 0, 1e400, 1]]]
    for boxes in bad_boxes:
        with pytest.raises(PairError, match=r"a box must be \[left, top, width, height\]"):
            read_truth(RawTruth(boxes=boxes), (6, 4))
    with pytest.raises(PairError, match=r"the box \[6, 0, 2, 2\] lies outside the picture of 6 x 4 pixels"):
        read_truth(RawTruth(boxes=[[0, 0, 1, 1], [6, 0, 2, 2]]), (6, 4))
    with pytest.raises(PairError, match=r"the box \[1, 1, 0, 2\] is empty: its width and height must be above 0"):
        read_truth(RawTruth(boxes=[[1, 1, 0, 2]]), (6, 4))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(PairError, match="the mask: "):
        read_truth(RawTruth(tmp_path / "text.png"), (6, 4))
