"""Scenes in which only nearness tells two equal objects apart: "a red circle next to a blue star"."""

from __future__ import annotations

import math

import numpy as np

from m2ib_lightning.scenes.hard.composition import (
    SMALL,
    Composition,
    free_place,
    is_inside,
    jittered,
    random_place,
    rotated,
)
from m2ib_lightning.scenes.hard.statement import frame, one
from m2ib_lightning.scenes.objects import Place, is_free, sample_attributes
from m2ib_lightning.scenes.painter import GRID
from m2ib_lightning.scenes.vocabulary import RADII

NEAR, FAR = 22.0, 30.0
"""Largest distance in pixels between the centres of objects that are near, and smallest of those that are not."""

WORDS = ("next to", "near", "beside")
"""Words for nearness. The bundled model knows them, but only as connectors that say nothing of places."""


def compose_nearness(rng: np.random.Generator) -> Composition:
    """Place two equal objects and two landmarks: the target is near the first one, its twin near neither.

    So the same caption with the second landmark is false.
    """
    target, landmark, stranger = (obj._replace(size=SMALL) for obj in sample_attributes(rng, 3))
    places = None
    while places is None:
        places = _lay_out_a_pair_and_two_others(rng)
    say, word = frame(rng), WORDS[rng.integers(len(WORDS))]
    return Composition(
        objects=rotated(rng, [target, landmark, target, stranger], places),
        targets=(0,),
        caption=say(f"{one(target)} [{word}] {one(landmark)}"),
        opposites={"landmark": say(f"{one(target)} [{word}] {one(stranger)}")},
        present=(say(one(stranger)), 3),
        twin=2,
    )


def _lay_out_a_pair_and_two_others(rng: np.random.Generator) -> list[Place] | None:
    """Return places of the target, the landmark, the twin and the second landmark; None if they do not fit."""
    radius = RADII[SMALL]
    target = random_place(rng, radius)
    steps = [(x, y) for x in (-2, -1, 0, 1, 2) for y in (-2, -1, 0, 1, 2) if 2 <= math.hypot(x, y) < 2.5]
    step_x, step_y = steps[rng.integers(len(steps))]
    landmark = jittered(rng, target.x + GRID * step_x, target.y + GRID * step_y, radius)
    twin = free_place(rng, radius, [target, landmark])
    if twin is None or not is_inside(landmark) or not is_free(landmark, [target]):
        return None
    stranger = free_place(rng, radius, [target, landmark, twin])
    if stranger is None or _distance(target, landmark) > NEAR:
        return None
    far = ((target, stranger), (twin, landmark), (twin, stranger))
    return [target, landmark, twin, stranger] if all(_distance(*pair) >= FAR for pair in far) else None


def _distance(first: Place, second: Place) -> float:
    return math.hypot(first.x - second.x, first.y - second.y)
