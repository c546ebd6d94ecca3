"""Plans of hard scenes: what is where, what the caption says, and which objects it is about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from m2ib_lightning.scenes.hard.statement import Statement
from m2ib_lightning.scenes.objects import Attributes, Place, is_free, lay_out, snapped
from m2ib_lightning.scenes.painter import CANVAS, GRID, random_degrees

JITTER = 2  # pixels, as in the hardest scenes of the bundled model's training
ROTATION = 5  # degrees, likewise
SMALL, LARGE = 0, 1

_TRIES = 40  # random places for an object before the arrangement is given up


class Placed(NamedTuple):
    """An object of a scene, its place, and its rotation in degrees."""

    attributes: Attributes
    place: Place
    degrees: int


@dataclass(frozen=True)
class Composition:
    """The plan of a hard scene.

    Attributes:
        objects: the objects in the order in which they are painted: a later one covers an earlier one.
        targets: indices of the objects that the caption is about.
        caption: a caption that is true of the scene.
        opposites: captions that are false of the scene, by what they change; the first is the minimal change.
        present: another true caption, which is about one other object, and the index of that object.
        twin: index of the object that the caption would name as well without its deciding word; None if there is none.
        textured: whether the background is like a photograph's.
    """

    objects: list[Placed]
    targets: tuple[int, ...]
    caption: Statement
    opposites: dict[str, Statement]
    present: tuple[Statement, int]
    twin: int | None = None
    textured: bool = False


def jittered(rng: np.random.Generator, x: float, y: float, radius: int) -> Place:
    """Return a place near a point of the patch grid."""
    dx, dy = rng.integers(-JITTER, JITTER + 1, 2)
    return Place(x + dx, y + dy, radius)


def random_place(rng: np.random.Generator, radius: int) -> Place:
    """Return a random place on the patch grid, with jitter."""
    x, y = (snapped(rng, radius, CANVAS, GRID, JITTER) for _ in range(2))
    return Place(x, y, radius)


def is_inside(place: Place) -> bool:
    """Whether the object lies within the picture, up to the jitter."""
    return all(place.radius - JITTER <= c <= CANVAS - place.radius + JITTER for c in place[:2])


def free_place(rng: np.random.Generator, radius: int, places: list[Place]) -> Place | None:
    """Return a random place that keeps its distance from the others, or None if none was found."""
    candidates = (random_place(rng, radius) for _ in range(_TRIES))
    return next((place for place in candidates if is_free(place, places)), None)


def scattered(rng: np.random.Generator, objects: list[Attributes]) -> list[Placed] | None:
    """Return the objects at random places without overlap, or None if they did not fit; their order is kept."""
    order = sorted(range(len(objects)), key=lambda index: -objects[index].size)
    places = lay_out(rng, [objects[index] for index in order], CANVAS, GRID, JITTER)
    if places is None:
        return None
    by_index = dict(zip(order, places, strict=True))
    return rotated(rng, objects, [by_index[index] for index in range(len(objects))])


def rotated(rng: np.random.Generator, objects: list[Attributes], places: list[Place]) -> list[Placed]:
    """Return the objects at their places, each turned at random."""
    return [Placed(obj, place, random_degrees(rng, ROTATION)) for obj, place in zip(objects, places, strict=True)]
