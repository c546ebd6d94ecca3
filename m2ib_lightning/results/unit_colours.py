"""The colours of units: each unit of a caption has one, in the caption and around its part of the picture."""

from __future__ import annotations

from itertools import pairwise

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.spans import TokenSpan

Colour = tuple[int, int, int]

_PALETTE: tuple[Colour, ...] = (
    (230, 97, 0),
    (0, 114, 178),
    (0, 158, 115),
    (204, 71, 140),
    (120, 94, 240),
    (176, 132, 0),
    (86, 180, 233),
    (150, 75, 50),
)
"""Colours that people with the common kinds of colour blindness can tell apart (after Okabe and Ito, 2008, and IBM)."""


def unit_colour(unit: int) -> Colour:
    """Return the colour of a unit by its index; the colours repeat after eight."""
    return _PALETTE[unit % len(_PALETTE)]


def tint(colour: Colour) -> Colour:
    """Return a light form of a colour, for the ground behind dark text."""
    red, green, blue = (round(255 - 0.38 * (255 - channel)) for channel in colour)
    return red, green, blue


def unit_spans(pair: Pair) -> list[TokenSpan]:
    """Return the caption in spans of one unit, or of no unit; a span's ``value`` is the unit's index, else -1.

    Spans of no unit are single words.
    """
    caption = pair.caption or ""
    edges = sorted({0, len(caption)} | {edge for unit in pair.units for edge in (unit.start, unit.end)})
    spans = []
    for start, end in pairwise(edges):
        owner = next((k for k, unit in enumerate(pair.units) if unit.start <= start and end <= unit.end), -1)
        spans.append(TokenSpan(start, end, caption[start:end], float("nan"), float(owner)))
    return spans
