"""Objects of a scene: their attributes, random sets of them, and places without overlap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from m2ib_lightning.scenes.vocabulary import COLOUR_NAMES, RADII, SHAPES, SIZES

UNSAID = -1
"""The value of an attribute that a phrase does not state."""

_SHARED_COLOUR, _SHARED_SHAPE = 0.3, 0.3  # shared attributes force the model to bind colour and shape
_GAP = 1.5  # smallest distance in pixels between two objects
_TRIES = 40  # random places for an object before the arrangement is given up


class Attributes(NamedTuple):
    """The attributes of an object, or those that a phrase states; a phrase may leave some ``UNSAID``.

    Attributes:
        colour: index into ``COLOUR_NAMES``.
        shape: index into ``SHAPES``.
        size: index into ``SIZES``.
    """

    colour: int
    shape: int
    size: int = UNSAID

    @property
    def name(self) -> str:
        """The words of the attributes, in a fixed order.

        >>> Attributes(0, 1).name
        'red square'
        """
        words = (COLOUR_NAMES, SHAPES, SIZES)
        return " ".join(kind[value] for kind, value in zip(words, self, strict=True) if value != UNSAID)


class Place(NamedTuple):
    """The centre and the radius of an object, in pixels."""

    x: float
    y: float
    radius: int


def sample_attributes(rng: np.random.Generator, count: int) -> list[Attributes]:
    """Draw ``count`` objects with distinct (colour, shape). Many share a colour or a shape with an earlier one."""
    objects = [_random_attributes(rng)]
    while len(objects) < count:
        earlier = objects[rng.integers(len(objects))]
        candidate, u = _random_attributes(rng), rng.random()
        if u < _SHARED_COLOUR:
            candidate = candidate._replace(colour=earlier.colour)
        elif u < _SHARED_COLOUR + _SHARED_SHAPE:
            candidate = candidate._replace(shape=earlier.shape)
        if all(candidate[:2] != other[:2] for other in objects):
            objects.append(candidate)
    return objects


def _random_attributes(rng: np.random.Generator) -> Attributes:
    colour, shape, size = (int(rng.integers(len(names))) for names in (COLOUR_NAMES, SHAPES, SIZES))
    return Attributes(colour, shape, size)


def lay_out(
    rng: np.random.Generator, objects: list[Attributes], canvas: int, grid: int, jitter: int
) -> list[Place] | None:
    """Return a random place for each object, or None if this arrangement does not fit.

    Centres snap to the patch grid and then jitter. With free positions, a ViT this small learns colours but not shapes.

    Args:
        rng: source of randomness.
        objects: attributes of the objects, best with the large ones first.
        canvas: width and height of the picture, in pixels.
        grid: width of a patch, in pixels.
        jitter: largest jitter along each axis, in pixels.
    """
    places: list[Place] = []
    for obj in objects:
        radius = RADII[obj.size]
        for _ in range(_TRIES):
            x, y = (snapped(rng, radius, canvas, grid, jitter) for _ in range(2))
            if is_free(place := Place(x, y, radius), places):
                places.append(place)
                break
        else:
            return None
    return places


def is_free(place: Place, places: Sequence[Place]) -> bool:
    """Whether a place keeps its distance from all others."""
    return all((place.x - p.x) ** 2 + (place.y - p.y) ** 2 > (place.radius + p.radius + _GAP) ** 2 for p in places)


def snapped(rng: np.random.Generator, radius: int, canvas: int, grid: int, jitter: int) -> float:
    """Return a random coordinate of a centre, snapped to the grid and then jittered, as ``lay_out`` says."""
    centre = rng.uniform(radius + 1, canvas - radius - 1)
    offset = 0.0 if round(2 * radius / grid) % 2 == 0 else grid / 2  # a patch corner, or a patch centre
    centre = round((centre - offset) / grid) * grid + offset
    return float(min(max(centre, radius), canvas - radius) + rng.integers(-jitter, jitter + 1))
