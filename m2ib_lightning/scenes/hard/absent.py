"""Objects that a scene lacks, for captions that are false of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from m2ib_lightning.scenes.objects import Attributes
from m2ib_lightning.scenes.vocabulary import COLOUR_NAMES, SHAPES


def absent_kind(rng: np.random.Generator, objects: Iterable[Attributes]) -> Attributes:
    """Return a random colour and shape that no object has together."""
    present = {obj[:2] for obj in objects}
    pairs = [(colour, shape) for colour in range(len(COLOUR_NAMES)) for shape in range(len(SHAPES))]
    return _draw(rng, [Attributes(*pair) for pair in pairs if pair not in present])


def with_one_change(rng: np.random.Generator, obj: Attributes, objects: Iterable[Attributes]) -> Attributes:
    """Return the object's colour and shape with one of the two replaced, such that no object has both.

    Where it can, the new attribute is one of another object: then each word alone fits the picture, and only their
    combination does not.
    """
    present = {other[:2] for other in objects}
    colours, shapes = ({pair[place] for pair in present} for place in (0, 1))
    changed = [Attributes(colour, obj.shape) for colour in range(len(COLOUR_NAMES))]
    changed += [Attributes(obj.colour, shape) for shape in range(len(SHAPES))]
    absent = [other for other in changed if other[:2] not in present]
    familiar = [other for other in absent if other.colour in colours and other.shape in shapes]
    return _draw(rng, familiar or absent)


def _draw(rng: np.random.Generator, candidates: list[Attributes]) -> Attributes:
    return candidates[rng.integers(len(candidates))]
