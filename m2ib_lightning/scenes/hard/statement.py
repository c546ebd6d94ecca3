"""Captions of hard scenes, with their content words marked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from m2ib_lightning.scenes.objects import UNSAID, Attributes
from m2ib_lightning.scenes.vocabulary import PREFIXES, SIZES, SUFFIXES

_OF_ONE_THING = ("there is",)
"""Prefixes that a plural does not follow."""

_OF_NOISE = ("on a noisy background",)
"""Suffixes that are not true of every hard scene."""


@dataclass(frozen=True)
class Statement:
    """A caption.

    Content words are those that decide which objects the caption is about: names, relations, numbers and denials.

    Attributes:
        marked: the caption, with brackets around its content words.
    """

    marked: str

    @property
    def text(self) -> str:
        """The caption without brackets.

        >>> Statement("a [red circle] [left] of a [blue star]").text
        'a red circle left of a blue star'
        """
        return re.sub(r"[\[\]]", "", self.marked)

    @property
    def content(self) -> list[tuple[int, int]]:
        """Character spans of the content words in ``text``.

        >>> Statement("a [red circle] here").content
        [(2, 5), (6, 12)]
        """
        spans, start, inside = [], 0, False
        for word in self.marked.split():
            inside |= word.startswith("[")
            length = len(word.strip("[]"))
            if inside:
                spans.append((start, start + length))
            inside &= not word.endswith("]")
            start += length + 1
        return spans


def frame(rng: np.random.Generator, *, plural: bool = False) -> Callable[[str], Statement]:
    """Draw what stands before and behind a caption; return a function that puts a marked text between the two."""
    prefixes = [prefix for prefix in PREFIXES if not (plural and prefix in _OF_ONE_THING)]
    suffixes = [suffix for suffix in SUFFIXES if suffix not in _OF_NOISE]
    prefix, suffix = (options[rng.integers(len(options))] for options in (prefixes, suffixes))
    return lambda marked: Statement(" ".join(part for part in (prefix, marked, suffix) if part))


def one(obj: Attributes, *, sized: bool = False) -> str:
    """Return the marked name of an object, with its article.

    >>> one(Attributes(0, 0, 1)), one(Attributes(0, 0, 1), sized=True)
    ('a [red circle]', 'a [large red circle]')
    """
    size = f"{SIZES[obj.size]} " if sized else ""
    return f"a [{size}{unsized(obj).name}]"


def unsized(obj: Attributes) -> Attributes:
    """Return the colour and the shape of an object, without its size."""
    return obj._replace(size=UNSAID)
