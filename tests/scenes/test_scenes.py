"""The scenes and their ground truth."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.scenes import (
    UNSAID,
    Attributes,
    Difficulty,
    describe,
    hard_negative,
    paint_scene,
    training_captions,
    truth_matrix,
)
from m2ib_lightning.scenes.scene_captions import FILLER_WORD
from m2ib_lightning.scenes.tokenizer import build_tokenizer
from m2ib_lightning.scenes.vocabulary import COLOURS, CONTENT, SHAPES, WORDS


def test_a_scene_repeats_and_its_masks_are_its_objects() -> None:
    for seed in range(20):
        scene = paint_scene(np.random.default_rng(seed))
        again = paint_scene(np.random.default_rng(seed))
        np.testing.assert_array_equal(scene.image, again.image)
        assert 2 <= len(scene.objects) <= 4
        assert len({obj[:2] for obj in scene.objects}) == len(scene.objects)
        covered = (scene.masks > 0.5).sum(0)
        assert covered.max() == 1  # no overlap
        for obj, mask in zip(scene.objects, scene.masks, strict=True):
            inside = scene.image[mask == 1].astype(float)
            colour = np.array(list(COLOURS.values())[obj.colour])
            near = np.abs(inside - colour).max(-1) < 60  # the rest is rim; colour and texture jitter by 10 and 8
            assert near.mean() > 0.25


def test_difficulty_sets_the_number_of_objects() -> None:
    scene = paint_scene(np.random.default_rng(0), Difficulty(objects=(1, 1)))
    assert len(scene.objects) == 1


def test_each_word_knows_its_owner() -> None:
    rng = np.random.default_rng(0)
    red_circle, blue_star = Attributes(0, 0), Attributes(2, 3, 0)
    for _ in range(50):
        caption = describe(rng, [red_circle, blue_star])
        owned = [
            [word for word, owner in zip(caption.words, caption.owners, strict=True) if owner == k] for k in (0, 1)
        ]
        assert owned == [["red", "circle"], ["small", "blue", "star"]]
        filler = [w for w, owner in zip(caption.words, caption.owners, strict=True) if owner == FILLER_WORD]
        assert not CONTENT & set(filler)


def test_truth_needs_an_object_for_every_phrase() -> None:
    red_circle, red_star, blue_star = Attributes(0, 0, 0), Attributes(0, 3, 1), Attributes(2, 3, 0)
    red, star = Attributes(0, UNSAID), Attributes(UNSAID, 3)
    truth = truth_matrix(
        [[red_circle, blue_star], [red_star]],
        [[red], [star], [red, star], [Attributes(0, 3)], [Attributes(0, 0, 1)]],
    )
    assert truth.tolist() == [[True, True, True, False, False], [True, True, False, True, False]]


def test_training_captions_end_with_a_hard_negative_that_is_often_false() -> None:
    rng = np.random.default_rng(0)
    false = 0
    for _ in range(100):
        scene = paint_scene(rng)
        captions = training_captions(rng, scene.objects, 4)
        truth = truth_matrix([scene.objects], [caption.phrases for caption in captions])[0]
        assert truth[:2].all()
        false += not truth[-1]
        assert hard_negative(rng, scene.objects)
    assert false > 40


def test_every_word_is_one_token_for_a_real_clip_tokenizer() -> None:
    tokenizer = build_tokenizer()
    for word in WORDS:
        assert len(tokenizer(word)["input_ids"]) == 3
        assert tokenizer.decode(tokenizer(word)["input_ids"][1:-1]) == word


def test_the_source_is_keyed_by_seed_and_index_alone() -> None:
    whole, short = SceneSource(0, 500), SceneSource(0, 3)
    assert whole[2].caption == short[2].caption
    np.testing.assert_array_equal(np.asarray(whole[2].image), np.asarray(short[2].image))
    other = SceneSource(1, 3)
    assert not np.array_equal(np.asarray(other[2].image), np.asarray(short[2].image))
    for index in range(20):
        example = whole.example(index)
        colour, shape, _ = example.scene.objects[0]
        assert len(example.scene.objects) == 3
        assert f"{list(COLOURS)[colour]} {SHAPES[shape]}" in example.caption.text
