"""Readers of hard scenes that share no code with the painter: what a caption says, and where each shape lies."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.scenes.hard import Placed
from m2ib_lightning.scenes.vocabulary import COLOUR_NAMES, SHAPES, SIZES

NAME = re.compile(rf"(?:({'|'.join(SIZES)}) )?({'|'.join(COLOUR_NAMES)}) ({'|'.join(SHAPES)})")
NUMBERS = {"two": 2, "three": 3}
POINTS = 8  # per pixel and axis


def referents(caption: str, objects: Sequence[Placed]) -> set[int]:
    """Indices of the objects that a caption is about; empty if it is false."""
    first, *rest = NAME.finditer(caption)
    named = fitting(first, objects)
    number = re.search(r"\b(two|three) $", caption[: first.start()])
    if number:
        assert caption[first.end()] == "s"
        return named if len(named) == NUMBERS[number[1]] else set()
    if not rest:
        return named
    (second,) = rest
    others, between = fitting(second, objects), caption[first.end() : second.start()]
    if between in (" and no ", " with no ", " without a "):
        return named if not others else set()
    if between in (" and a ", " with a "):
        return named | others if named and others else set()
    return {one for one in named for other in others if related(between, objects[one], objects[other])}


def fitting(name: re.Match[str], objects: Sequence[Placed]) -> set[int]:
    """Indices of the objects that a name fits."""
    size, colour, shape = name.groups()
    return {
        index
        for index, ((own_colour, own_shape, own_size), _, _) in enumerate(objects)
        if (COLOUR_NAMES[own_colour], SHAPES[own_shape]) == (colour, shape) and size in (None, SIZES[own_size])
    }


def related(words: str, one: Placed, other: Placed) -> bool:
    """Whether a relation holds: directions mean at least 8 px, nearness less than 26 px."""
    dx, dy = one.place.x - other.place.x, one.place.y - other.place.y
    near = math.hypot(dx, dy) < 26
    meanings = {"left of": dx < -8, "right of": dx > 8, "above": dy < -8, "below": dy > 8}
    meanings |= {"next to": near, "near": near, "beside": near}
    return meanings[words.removesuffix(" a ").strip()]


def visible_shares(objects: Sequence[Placed], canvas: int) -> NDArray[np.float64]:
    """Share (objects, canvas, canvas) of each pixel in which an object is the topmost, by points in each pixel."""
    ticks = (np.arange(canvas * POINTS) + 0.5) / POINTS
    top = np.full((canvas * POINTS,) * 2, -1)
    for index, obj in enumerate(objects):
        columns, rows = (np.flatnonzero(abs(ticks - centre) < obj.place.radius + 2) for centre in obj.place[:2])
        box = top[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        box[covers(obj, *np.meshgrid(ticks[columns], ticks[rows]))] = index
    shape = (len(objects), canvas, POINTS, canvas, POINTS)
    return (top == np.arange(len(objects))[:, None, None]).reshape(shape).mean((2, 4))


def covers(obj: Placed, x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Whether points lie in a shape. Shapes stand on whole pixels: their box of 2 r + 3 px is rounded."""
    radius = obj.place.radius
    half = (2 * radius + 3) / 2
    dx, dy = (at - (math.floor(c - half + 0.5) + half) for at, c in ((x, obj.place.x), (y, obj.place.y)))
    distance = np.hypot(dx, dy)
    turned = np.arctan2(dx, -dy) - math.radians(obj.degrees)  # clockwise from the top
    match SHAPES[obj.attributes.shape]:
        case "circle":
            return distance <= 0.92 * radius
        case "ring":
            return (distance <= 0.95 * radius) & (distance >= 0.52 * radius)
        case "square":
            return distance * np.maximum(abs(np.cos(turned)), abs(np.sin(turned))) <= 0.78 * radius
        case "triangle":
            return np.all(
                [distance * np.cos(turned - side) <= radius / 2 for side in (np.pi / 3, np.pi, -np.pi / 3)], 0
            )
        case _:
            arm = abs((turned + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5)  # angle to the nearest tip
            along, across = distance * np.cos(arm), distance * np.sin(arm)
            notch = 0.42 * radius * np.array([math.cos(math.pi / 5), math.sin(math.pi / 5)])
            return across * (radius - notch[0]) <= notch[1] * (radius - along)
