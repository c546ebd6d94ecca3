"""The outline of the ground truth on the overlay, and the lines about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.truth import Truth
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from m2ib_lightning.results.drawing import facts_of, overlay
from m2ib_lightning.results.html import attribution_fragment
from m2ib_lightning.results.marked_part import marked_facts, with_outline

WIDTH, HEIGHT = 40, 20


def result(mask: np.ndarray | None, crop: tuple[int, int, int, int] = (0, 0, WIDTH, HEIGHT)) -> Attribution:
    """A map of 2 x 4 patches, the highest of which is the second of the upper row."""
    saliency = np.array([[0, 9, 0, 0], [0, 0, 0, 0]], np.float32)
    truth = None if mask is None else Truth(mask, None, [])
    pair = Pair("a:0", "a", "a.png", "x", ["x"], [(0, 1)], [1], (WIDTH, HEIGHT), crop, truth=truth)
    pair = replace(pair, picture=Image.new("RGB", (WIDTH, HEIGHT), "grey"))
    return Attribution(pair, 0.5, TowerAttribution(saliency), TowerAttribution(np.ones(1, np.float32)))


def box(left: int, top: int, right: int, bottom: int, size: tuple[int, int] = (WIDTH, HEIGHT)) -> np.ndarray:
    mask = np.zeros(size[::-1], bool)
    mask[top:bottom, left:right] = True
    return mask


def test_the_outline_follows_the_edge_and_leaves_the_rest_alone() -> None:
    marked = result(box(10, 5, 30, 15))
    plain = Image.new("RGB", (WIDTH, HEIGHT), "grey")
    pixels, before = np.asarray(with_outline(marked, plain)), np.asarray(plain)
    assert (pixels[10, 20] == before[10, 20]).all()
    assert (pixels[0, 0] == before[0, 0]).all()
    assert (pixels[5, 10] == (64, 224, 255)).all()  # the first pixel inside, and the one before it
    assert (pixels[4, 10] == (0, 0, 0)).all()
    assert (np.asarray(overlay(marked, plain)) != np.asarray(overlay(result(None), plain))).any()


@pytest.mark.parametrize("mask", [None, np.zeros((HEIGHT, WIDTH), bool)])
def test_without_a_marked_part_nothing_is_drawn_or_said(mask: np.ndarray | None) -> None:
    plain = Image.new("RGB", (WIDTH, HEIGHT), "grey")
    assert with_outline(result(mask), plain) is plain
    assert marked_facts(result(mask)) == []


@pytest.mark.parametrize(
    ("mask", "crop", "facts"),
    [
        (box(10, 0, 20, 10), (0, 0, WIDTH, HEIGHT), ["highest point: on the outlined part"]),
        (box(30, 10, 40, 20), (0, 0, WIDTH, HEIGHT), ["highest point: beside the outlined part"]),
        (
            box(0, 0, 20, 20),
            (10, 0, 30, 20),  # the model saw the middle half: its second patch of four is at 15 to 20
            [
                "highest point: on the outlined part",
                "outside of what the model sees: 50% of the outlined part",
            ],
        ),
        (box(0, 0, 5, 20), (10, 0, 30, 20), ["outside of what the model sees: 100% of the outlined part"]),
    ],
)
def test_hit_or_miss_and_what_the_crop_cuts_away(
    mask: np.ndarray, crop: tuple[int, int, int, int], facts: list[str]
) -> None:
    marked = result(mask, crop)
    assert marked_facts(marked) == facts
    assert facts_of(marked)[-len(facts) :] == facts
    assert facts[-1] in attribution_fragment(marked)


def test_the_mask_of_a_larger_picture_is_outlined_at_the_size_of_the_copy() -> None:
    pair = replace(result(None).pair, image_size=(400, 200), crop=(0, 0, 400, 200))
    pair = replace(pair, truth=Truth(box(100, 50, 300, 150, (400, 200)), None, []))
    drawn = with_outline(replace(result(None), pair=pair), Image.new("RGB", (WIDTH, HEIGHT), "grey"))
    assert (np.asarray(drawn)[5, 10] == (64, 224, 255)).all()
