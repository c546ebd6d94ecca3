"""A unit of a caption, and the caption without it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from m2ib_lightning.errors import PairError


@dataclass(frozen=True)
class Unit:
    """A span of a caption that gets a map of its own.

    Attributes:
        text: the characters of the span.
        start: index of the first character in the caption.
        end: index after the last character.
    """

    text: str
    start: int
    end: int

    @staticmethod
    def of(caption: str, start: int, end: int) -> Unit:
        """Return the unit of a caption between two indices."""
        return Unit(caption[start:end], start, end)


def without(caption: str, unit: Unit) -> str:
    """Return the caption without a unit; one space is left where two met.

    >>> without("a red circle and a star", Unit.of("a red circle and a star", 2, 12))
    'a and a star'
    """
    before, after = caption[: unit.start].rstrip(), caption[unit.end :].lstrip()
    spaced = unit.start > len(before) or len(caption) - unit.end > len(after)
    return f"{before} {after}".strip() if spaced else before + after


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit."""
    return re.search(r"[^\W_]", text) is not None


def checked_spans(caption: str, spans: Sequence[Any]) -> list[Unit]:
    """Return the units that a user's spans mark.

    Args:
        caption: the caption.
        spans: (start, end) of each unit, in characters of the caption.

    Returns:
        The units, in the order of the spans.

    Raises:
        PairError: if there is no span, or one is not a pair of integers, is outside the caption, has no word, overlaps
            another, or is the whole caption.
    """
    if not spans:
        raise PairError("there must be at least one unit, got an empty list of spans")
    units = [_checked_span(caption, span) for span in spans]
    in_order = sorted(units, key=lambda unit: unit.start)
    for first, second in pairwise(in_order):
        if second.start < first.end:
            raise PairError(
                f"the units {first.text!r} ({first.start}, {first.end}) and {second.text!r} ({second.start}, "
                f"{second.end}) overlap: units must share no character"
            )
    return units


def _checked_span(caption: str, span: Any) -> Unit:
    try:
        start, end = (_index(value) for value in span)
    except (TypeError, ValueError):
        raise PairError(
            f"a unit must be (start, end), two indices of characters of the caption, got {span!r}"
        ) from None
    if not 0 <= start < end <= len(caption):
        problem = "is empty" if start == end else "is outside the caption"
        raise PairError(f"the unit ({start}, {end}) {problem}, which has the characters 0 to {len(caption)}")
    unit = Unit.of(caption, start, end)
    if not has_words(unit.text):
        raise PairError(f"the unit ({start}, {end}) is {unit.text!r}, which has no word")
    if not has_words(without(caption, unit)):
        raise PairError(
            f"the unit {unit.text!r} is the whole caption: nothing is left to compare the caption with when it is left "
            "out. Its map is that of explain(image, caption)"
        )
    return unit


def _index(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(value)
    return int(value)
