"""Scenes of ordinary objects before a background like a photograph's."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.scenes.hard.absent import with_one_change
from m2ib_lightning.scenes.hard.composition import Composition, scattered
from m2ib_lightning.scenes.hard.statement import frame, one
from m2ib_lightning.scenes.objects import sample_attributes

_OBJECTS = 3


def compose_background(rng: np.random.Generator) -> Composition:
    """Place three objects, as in ordinary scenes; the caption names the first."""
    objects = None
    while objects is None:
        kinds = sample_attributes(rng, _OBJECTS)
        objects = scattered(rng, kinds)
    target = kinds[0]
    say = frame(rng)
    return Composition(
        objects=objects,
        targets=(0,),
        caption=say(one(target)),
        opposites={"colour or shape": say(one(with_one_change(rng, target, kinds)))},
        present=(say(one(kinds[1])), 1),
        textured=True,
    )
