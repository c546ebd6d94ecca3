"""The localisation scores: perfect maps score 1, and each can go wrong."""

from __future__ import annotations

import numpy as np
import pytest

from m2ib_lightning.datamodules.scene_scoring import score_scene, score_scenes
from m2ib_lightning.datamodules.scenes import SceneExample, SceneSource
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution, TowerAttribution

CURVE = np.zeros(1, np.float32)


def result_for(example: SceneExample, image: np.ndarray, text: np.ndarray) -> Attribution:
    words = example.caption.words
    pair = Pair(
        key="t", id="t", image="", caption=example.caption.text, tokens=words, image_size=(64, 64), crop=(0, 0, 64, 64)
    )
    return Attribution(
        pair, 0.0, TowerAttribution(image, CURVE, CURVE, CURVE), TowerAttribution(text, CURVE, CURVE, CURVE)
    )


def content(example: SceneExample) -> np.ndarray:
    return (np.array(example.caption.owners) >= 0).astype(np.float32)


@pytest.mark.parametrize("index", range(5))
def test_a_perfect_map_scores_one(index: int) -> None:
    example = SceneSource(0).example(index)
    target = (example.scene.masks[0] > 0.5).astype(np.float32)
    scores = score_scene(result_for(example, target, 100 * content(example)), example)
    for name in ("point", "pick", "iou", "average_precision", "text_auroc"):
        assert scores[name] == pytest.approx(1), name
    assert scores["mass_ratio"] == pytest.approx(1 / target.mean(), rel=1e-4)


def test_a_map_of_another_object_scores_nothing() -> None:
    example = SceneSource(0).example(0)
    other = (example.scene.masks[1] > 0.5).astype(np.float32)
    scores = score_scene(result_for(example, other, 1 - content(example)), example)
    for name in ("point", "pick", "iou", "text_auroc", "mass_ratio"):
        assert scores[name] == pytest.approx(0), name


def test_a_blank_map_picks_nothing() -> None:
    example = SceneSource(0).example(0)
    scores = score_scene(result_for(example, np.ones((8, 8), np.float32), content(example)), example)
    assert scores["pick"] == 0


def test_two_pixels_beside_the_object_still_count_as_a_hit_but_four_do_not() -> None:
    example = SceneSource(0).example(0)
    target = example.scene.masks[0] > 0.5
    row = int(np.flatnonzero(target.any(1))[0])
    column = int(np.flatnonzero(target[row])[0])
    for distance, hit in ((0, 1.0), (2, 1.0), (4, 0.0)):
        lit = np.zeros((64, 64), np.float32)
        lit[row - distance, column] = 1
        assert score_scene(result_for(example, lit, content(example)), example)["point"] == hit


def test_auroc_counts_pairs_of_words_in_the_right_order() -> None:
    example = SceneSource(0).example(0)
    owned = content(example).astype(bool)
    text = np.linspace(5, 50, len(owned)).astype(np.float32)
    expected = np.mean([high > low for high in text[owned] for low in text[~owned]])
    flat = np.zeros((8, 8), np.float32)
    assert score_scene(result_for(example, flat, text), example)["text_auroc"] == pytest.approx(expected, abs=1e-6)
    tied = np.ones_like(text)
    assert score_scene(result_for(example, flat, tied), example)["text_auroc"] == pytest.approx(0.5)


def test_scores_need_a_result_for_each_scene() -> None:
    example = SceneSource(0).example(0)
    result = result_for(example, np.zeros((8, 8), np.float32), content(example))
    with pytest.raises(ValueError, match="longer"):
        score_scenes([result], [example, example])
    with pytest.raises(ValueError, match="no scene"):
        score_scenes([], [])
    with pytest.raises(ValueError, match="one token per word"):
        score_scene(result_for(example, np.zeros((8, 8), np.float32), content(example)[:-1]), example)
