"""Scenes in which another object covers part of the named one."""

from __future__ import annotations

import math

import numpy as np

from m2ib_lightning.scenes.hard.absent import with_one_change
from m2ib_lightning.scenes.hard.composition import (
    ROTATION,
    Composition,
    Placed,
    free_place,
    is_inside,
    random_place,
)
from m2ib_lightning.scenes.hard.statement import frame, one, unsized
from m2ib_lightning.scenes.objects import Attributes, Place, sample_attributes
from m2ib_lightning.scenes.painter import coverage, random_degrees
from m2ib_lightning.scenes.vocabulary import RADII

VISIBLE = (0.4, 0.75)
"""Smallest and largest share of the named object that stays visible."""


def compose_occlusion(rng: np.random.Generator) -> Composition:
    """Place an object, one in front of it, and a third one apart from both; the caption names the first."""
    objects = None
    while objects is None:
        kinds = sample_attributes(rng, 3)
        objects = _lay_one_over_another(rng, kinds)
    target, cover, _ = map(unsized, kinds)
    say = frame(rng)
    return Composition(
        objects=objects,
        targets=(0,),
        caption=say(one(target)),
        opposites={"colour or shape": say(one(with_one_change(rng, target, kinds)))},
        present=(say(one(cover)), 1),
    )


def _lay_one_over_another(rng: np.random.Generator, kinds: list[Attributes]) -> list[Placed] | None:
    """Return the three objects, or None if too much or too little of the first would be visible."""
    radii = [RADII[obj.size] for obj in kinds]
    behind = random_place(rng, radii[0])
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.3, 0.9) * (radii[0] + radii[1])
    x, y = (round(centre + distance * turn(angle)) for centre, turn in zip(behind, (math.cos, math.sin), strict=False))
    front = Place(x, y, radii[1])
    apart = free_place(rng, radii[2], [behind, front])
    if apart is None or not is_inside(front):
        return None
    objects = [
        Placed(obj, place, random_degrees(rng, ROTATION))
        for obj, place in zip(kinds, (behind, front, apart), strict=True)
    ]
    covered, covering = (coverage(*obj) for obj in objects[:2])
    visible = (covered * (1 - covering)).sum() / covered.sum()
    return objects if VISIBLE[0] <= visible <= VISIBLE[1] else None
