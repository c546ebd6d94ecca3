"""Scenes with more objects than the bundled model was trained on, all of them like the named one in part."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.scenes.hard.absent import with_one_change
from m2ib_lightning.scenes.hard.composition import SMALL, Composition, scattered
from m2ib_lightning.scenes.hard.statement import frame, one
from m2ib_lightning.scenes.objects import Attributes
from m2ib_lightning.scenes.vocabulary import COLOUR_NAMES, SHAPES


def compose_crowding(rng: np.random.Generator) -> Composition:
    """Place six objects: two others have the colour of the named one, two its shape, and one neither."""
    objects = None
    while objects is None:
        kinds = _crowd(rng)
        objects = scattered(rng, kinds)
    target = kinds[0]
    say = frame(rng)
    return Composition(
        objects=objects,
        targets=(0,),
        caption=say(one(target)),
        opposites={"colour or shape": say(one(with_one_change(rng, target, kinds)))},
        present=(say(one(kinds[1])), 1),
    )


def _crowd(rng: np.random.Generator) -> list[Attributes]:
    colour, *colours = (int(value) for value in rng.permutation(len(COLOUR_NAMES)))
    shape, *shapes = (int(value) for value in rng.permutation(len(SHAPES)))
    of_its_colour = [(colour, other) for other in shapes[:2]]
    of_its_shape = [(other, shape) for other in colours[:2]]
    pairs = [(colour, shape), *of_its_colour, *of_its_shape, (colours[2], shapes[2])]
    return [Attributes(*pair, SMALL) for pair in pairs]
