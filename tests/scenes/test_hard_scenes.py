"""Hard scenes: what their captions say is so, and their masks are what is seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations

import numpy as np
import pytest

from m2ib_lightning.scenes.hard import KINDS, HardScene, Placed, paint_hard_scene
from m2ib_lightning.scenes.objects import Attributes, Place
from m2ib_lightning.scenes.painter import CANVAS
from m2ib_lightning.scenes.vocabulary import COLOURS
from tests.scenes.scene_reader import referents, visible_shares

PALETTE = np.array([*COLOURS.values(), (20, 20, 20)])  # the last one is the rim


def scenes(kind: str, count: int) -> list[HardScene]:
    return [paint_hard_scene(np.random.default_rng([7, number]), kind) for number in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_true_and_their_opposites_false(kind: str) -> None:
    for scene in scenes(kind, 20):
        plan = scene.composition
        assert referents(plan.caption.text, plan.objects) == set(plan.targets)
        for opposite in plan.opposites.values():
            assert referents(opposite.text, plan.objects) == set(), opposite
        text, index = plan.present
        assert index not in plan.targets
        assert referents(text.text, plan.objects) == {index}
        if plan.twin is not None:
            target, twin = (plan.objects[number].attributes for number in (plan.targets[0], plan.twin))
            assert twin[:2] == target[:2]


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_the_visible_pixels(kind: str) -> None:
    for scene in scenes(kind, 3):
        shares = visible_shares(scene.composition.objects, CANVAS)
        difference = np.abs(scene.visible - shares)
        assert difference.mean() < 2e-3
        assert difference.max() < 0.25  # Pillow's outlines; and where two edges share a pixel, shares only multiply
        seen = shares[list(scene.composition.targets)].max(0)
        clear = np.abs(seen - 0.5) > 0.15
        np.testing.assert_array_equal(scene.mask[clear], seen[clear] > 0.5)
        assert scene.mask.sum() > 20
        assert (~clear).sum() < 0.5 * scene.mask.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_painted_in_their_colours(kind: str) -> None:
    for scene in scenes(kind, 6):
        for obj, visible in zip(scene.composition.objects, scene.visible, strict=True):
            pixels = scene.image[visible > 0.99].astype(float)
            nearest = np.linalg.norm(pixels[:, None] - PALETTE, axis=-1).argmin(-1)
            counts = np.bincount(nearest, minlength=len(PALETTE))[:-1]
            assert counts.argmax() == obj.attributes.colour


def test_only_occlusion_covers_objects_and_leaves_enough_of_the_named_one() -> None:
    for kind in KINDS:
        for scene in scenes(kind, 6):
            objects = scene.composition.objects
            if kind != "occlusion":
                assert all(math.dist(a[:2], b[:2]) > a.radius + b.radius for a, b in pairs_of_places(objects))
            else:
                whole = [visible_shares([obj], CANVAS)[0].sum() for obj in objects]
                shares = scene.visible.sum((1, 2)) / whole
                assert 0.38 < shares[0] < 0.77
                assert (np.abs(shares[1:] - 1) < 0.03).all()


def pairs_of_places(objects: list[Placed]) -> Iterator[tuple[Place, Place]]:
    return combinations([obj.place for obj in objects], 2)


def test_content_words_decide_what_a_caption_is_about() -> None:
    words = {
        "relations": {"left", "right", "above", "below"},
        "nearness": {"next", "near", "beside"},
        "sizes": {"small", "large"},
        "counting": {"two", "three"},
        "negation": {"no", "without"},
    }
    filler = {"a", "and", "with", "of", "this", "shows", "photo", "picture", "image", "an", "in", "the", "here"}
    for kind, deciding in words.items():
        for scene in scenes(kind, 10):
            caption = scene.composition.caption
            content = {caption.text[start:end] for start, end in caption.content}
            assert len(content & deciding) == 1
            assert not content & filler


def test_the_reader_knows_a_false_caption() -> None:
    """The tests above would fail on scenes that break their promise."""
    red_circle, blue_star = Attributes(0, 0, 0), Attributes(2, 3, 0)
    objects = [Placed(red_circle, Place(12, 32, 8), 0), Placed(blue_star, Place(40, 32, 8), 0)]
    assert referents("a red circle left of a blue star", objects) == {0}
    assert referents("a blue star left of a red circle", objects) == set()
    assert referents("there is a red circle near a blue star", objects) == set()
    assert referents("two red circles", objects) == set()
    assert referents("two red circles", [*objects, objects[0]]) == {0, 2}
    assert referents("a large red circle", objects) == set()
    assert referents("a red circle and no blue star", objects) == set()
    assert referents("a red circle and a blue star here", objects) == {0, 1}
