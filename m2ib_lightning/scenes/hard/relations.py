"""Scenes in which only a direction tells two equal objects apart: "a red circle left of a blue star"."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.scenes.hard.composition import SMALL, Composition, free_place, is_inside, jittered, rotated
from m2ib_lightning.scenes.hard.statement import frame, one
from m2ib_lightning.scenes.objects import Place, is_free, sample_attributes
from m2ib_lightning.scenes.painter import CANVAS, GRID
from m2ib_lightning.scenes.vocabulary import RADII

DIRECTIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Relations of a first object to a second one, as (x, y) steps from the second to the first; y points down."""

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


def compose_relations(rng: np.random.Generator) -> Composition:
    """Place two equal objects beside a landmark: one in the stated direction, the other at a right angle to it.

    So the opposite direction, and the two names exchanged, are false. A fourth object is of another kind.
    """
    target, landmark, other = (obj._replace(size=SMALL) for obj in sample_attributes(rng, 3))
    direction = list(DIRECTIONS)[rng.integers(len(DIRECTIONS))]
    crossing = [name for name, step in DIRECTIONS.items() if np.dot(step, DIRECTIONS[direction]) == 0]
    twin_direction = crossing[rng.integers(len(crossing))]
    places = None
    while places is None:
        places = _lay_out_around_a_landmark(rng, direction, twin_direction)
    say = frame(rng)
    return Composition(
        objects=rotated(rng, [target, landmark, target, other], places),
        targets=(0,),
        caption=say(f"{one(target)} {_marked(direction)} {one(landmark)}"),
        opposites={
            "direction": say(f"{one(target)} {_marked(OPPOSITE[direction])} {one(landmark)}"),
            "names exchanged": say(f"{one(landmark)} {_marked(direction)} {one(target)}"),
        },
        present=(say(f"{one(target)} {_marked(twin_direction)} {one(landmark)}"), 2),
        twin=2,
    )


def _lay_out_around_a_landmark(rng: np.random.Generator, direction: str, twin_direction: str) -> list[Place] | None:
    """Return places of the target, the landmark, the twin and another object; None if they do not fit."""
    radius = RADII[SMALL]
    x, y = (GRID * int(rng.integers(1, CANVAS // GRID)) for _ in range(2))
    places: list[Place] = []
    for step_x, step_y in (DIRECTIONS[direction], (0, 0), DIRECTIONS[twin_direction]):
        distance = GRID * int(rng.integers(2, 6))
        place = jittered(rng, x + step_x * distance, y + step_y * distance, radius)
        if not is_inside(place) or not is_free(place, places):
            return None
        places.append(place)
    other = free_place(rng, radius, places)
    return None if other is None else [*places, other]


def _marked(direction: str) -> str:
    return f"[{direction.removesuffix(' of')}]" + (" of" if direction.endswith(" of") else "")
