"""Captions of a scene: noun phrases joined by connectors, and the phrase that each word belongs to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from m2ib_lightning.scenes.objects import UNSAID, Attributes
from m2ib_lightning.scenes.vocabulary import (
    COLOUR_NAMES,
    CONNECTORS,
    CONTENT,
    NOUNS,
    PREFIXES,
    SHAPES,
    SIZES,
    SUFFIXES,
)

FILLER_WORD = -1
"""The owner of a word that belongs to no phrase, such as a connector or an article."""


@dataclass(frozen=True)
class Caption:
    """A caption and its ground truth.

    Attributes:
        words: words of the text, split at spaces.
        owners: index of the phrase that each word belongs to; ``FILLER_WORD`` for filler and articles.
        phrases: attributes that each noun phrase states.
    """

    words: list[str]
    owners: list[int]
    phrases: list[Attributes]

    @property
    def text(self) -> str:
        """The caption as one string."""
        return " ".join(self.words)


def describe(rng: np.random.Generator, phrases: list[Attributes], *, plain: bool = False) -> Caption:
    """Return a caption of the phrases, in their order; ``plain`` leaves out the prefix and the suffix."""
    words: list[str] = []
    owners: list[int] = []

    def append(text: list[str], owner: int = FILLER_WORD) -> None:
        words.extend(text)
        owners.extend(owner if word in CONTENT else FILLER_WORD for word in text)

    if not plain:
        append(_choice(rng, PREFIXES).split())
    for index, phrase in enumerate(phrases):
        if index:
            append(_choice(rng, CONNECTORS).split())
        append(_noun_phrase(rng, phrase), index)
    if not plain:
        append(_choice(rng, SUFFIXES).split())
    return Caption(words, owners, phrases)


def _choice(rng: np.random.Generator, options: tuple[str, ...]) -> str:
    return options[rng.integers(len(options))]


def _noun_phrase(rng: np.random.Generator, phrase: Attributes) -> list[str]:
    words = [SIZES[phrase.size]] if phrase.size != UNSAID else []
    if phrase.colour != UNSAID:
        words.append(COLOUR_NAMES[phrase.colour])
    words.append(SHAPES[phrase.shape] if phrase.shape != UNSAID else _choice(rng, NOUNS))
    indefinite = "an" if words[0][0] in "aeiou" else "a"
    return [indefinite if rng.random() < 0.85 else "the", *words]


def training_captions(rng: np.random.Generator, objects: list[Attributes], count: int) -> list[Caption]:
    """Return ``count`` captions of a scene.

    The first names one object, the second two, and the others up to three. The last one is a hard negative, and the
    third may be one.
    """
    captions = []
    for index in range(count):
        if index == count - 1 or (index == 2 and rng.random() < 0.5):
            phrases = hard_negative(rng, objects)
        else:
            size = (1, 2, int(rng.integers(1, 4)))[min(index, 2)]
            chosen = rng.permutation(len(objects))[: min(len(objects), size)]
            phrases = [_partial(rng, objects[k]) for k in chosen]
        captions.append(describe(rng, phrases))
    return captions


def _partial(rng: np.random.Generator, obj: Attributes) -> Attributes:
    """The attributes that a person would state: colour and shape, sometimes the size too, sometimes one attribute."""
    u = rng.random()
    if u < 0.70:
        return obj._replace(size=UNSAID)
    if u < 0.84:
        return obj
    if u < 0.88:
        return Attributes(UNSAID, obj.shape)
    if u < 0.94:
        return Attributes(obj.colour, UNSAID)
    return obj._replace(colour=UNSAID)


def hard_negative(rng: np.random.Generator, objects: list[Attributes]) -> list[Attributes]:
    """Return phrases with attributes bound to the wrong objects, or with one attribute replaced.

    The phrases may be true of the scene by chance; ``truth_matrix`` tells.
    """
    if len(objects) >= 2 and rng.random() < 0.6:
        first, second = (objects[k] for k in rng.permutation(len(objects))[:2])
        swapped = [Attributes(first.colour, second.shape), Attributes(second.colour, first.shape)]
        return swapped[:1] if rng.random() < 0.6 else swapped
    obj = objects[rng.integers(len(objects))]
    if rng.random() < 0.3:
        return [obj._replace(size=1 - obj.size)]
    if rng.random() < 0.5:
        return [Attributes(int(rng.integers(len(COLOUR_NAMES))), obj.shape)]
    return [Attributes(obj.colour, int(rng.integers(len(SHAPES))))]
