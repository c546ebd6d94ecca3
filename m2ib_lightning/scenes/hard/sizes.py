"""Scenes in which only the size tells two objects apart: "a small red circle", beside a large one."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.scenes.hard.composition import Composition, scattered
from m2ib_lightning.scenes.hard.statement import frame, one
from m2ib_lightning.scenes.objects import sample_attributes


def compose_sizes(rng: np.random.Generator) -> Composition:
    """Place an object, one that differs from it in size alone, and an object of another kind in that other size.

    So the stated size, said of the third object, is false.
    """
    objects = None
    while objects is None:
        target, other = sample_attributes(rng, 2)
        twin, other = target._replace(size=1 - target.size), other._replace(size=1 - target.size)
        objects = scattered(rng, [target, twin, other])
    say = frame(rng)
    return Composition(
        objects=objects,
        targets=(0,),
        caption=say(one(target, sized=True)),
        opposites={"object of that size": say(one(other._replace(size=target.size), sized=True))},
        present=(say(one(twin, sized=True)), 1),
        twin=1,
    )
