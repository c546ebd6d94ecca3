"""Scenes with several equal objects, and captions that count them: "two red circles"."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.scenes.hard.composition import SMALL, Composition, scattered
from m2ib_lightning.scenes.hard.statement import frame, one, unsized
from m2ib_lightning.scenes.objects import Attributes, sample_attributes

NUMBERS = {2: "two", 3: "three"}
"""Numbers are exact: "two red circles" is false of a picture with three."""

_OBJECTS = 5


def compose_counting(rng: np.random.Generator) -> Composition:
    """Place two or three equal objects among others, five in all, so that the total says nothing."""
    objects = None
    while objects is None:
        number = int(rng.integers(2, 4))
        counted, *others = (obj._replace(size=SMALL) for obj in sample_attributes(rng, _OBJECTS + 1 - number))
        objects = scattered(rng, [counted] * number + others)
    say = frame(rng, plural=True)
    return Composition(
        objects=objects,
        targets=tuple(range(number)),
        caption=say(_several(number, counted)),
        opposites={"number": say(_several(5 - number, counted))},
        present=(say(one(others[0])), number),
    )


def _several(number: int, obj: Attributes) -> str:
    return f"[{NUMBERS[number]} {unsized(obj).name}s]"
