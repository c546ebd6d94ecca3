"""Scenes whose captions name one object and deny another: "a red circle and no blue star"."""

from __future__ import annotations

import numpy as np

from m2ib_lightning.scenes.hard.absent import absent_kind
from m2ib_lightning.scenes.hard.composition import Composition, scattered
from m2ib_lightning.scenes.hard.statement import frame, one
from m2ib_lightning.scenes.objects import sample_attributes

DENIALS = {"and [no]": "and a", "with [no]": "with a", "[without] a": "with a"}
"""Words that deny what follows, and the same words without the denial."""

_OBJECTS = 3


def compose_negation(rng: np.random.Generator) -> Composition:
    """Place three objects; the caption names the first, and denies one that is not there.

    To deny the second one instead, and to state what is denied, is false.
    """
    objects = None
    while objects is None:
        kinds = sample_attributes(rng, _OBJECTS)
        objects = scattered(rng, kinds)
    target, stranger, *_ = kinds
    denied = absent_kind(rng, kinds)
    words = list(DENIALS)[rng.integers(len(DENIALS))]
    say = frame(rng)
    named = {obj: one(obj).removeprefix("a ") for obj in (denied, stranger)}
    return Composition(
        objects=objects,
        targets=(0,),
        caption=say(f"{one(target)} {words} {named[denied]}"),
        opposites={
            "what is denied": say(f"{one(target)} {words} {named[stranger]}"),
            "no denial": say(f"{one(target)} {DENIALS[words]} {named[denied]}"),
        },
        present=(say(one(stranger)), 1),
    )
