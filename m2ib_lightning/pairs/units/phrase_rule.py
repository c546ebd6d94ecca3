"""A light rule that finds the phrases of an English caption: content words between function words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from m2ib_lightning.pairs.units.unit import Unit

FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every no another other both all
    and or but nor so yet as than if while because
    of in on at by with without within near beside besides behind before after above below under over between among
    along across around against onto into inside outside from to toward towards through during for upon off up down
    out next left right front top bottom side
    is are was were be been being am has have had having do does did can could will would shall should may might must
    there here somewhere anywhere everywhere nowhere it its he him his she her they them their we us our you your
    i me my who whom whose which what where when
    not also too very just only quite rather still
    photo picture image photograph we see shows showing show containing
    """.split()  # noqa: SIM905 - a list of 150 quoted words would be harder to read
)
"""Words that name nothing that can be pointed at: articles, prepositions, conjunctions, pronouns, auxiliaries, and the
words that open a caption. ``left``, ``right``, ``next`` and the like are parts of prepositions ("to the left of")."""

_WORD = re.compile(r"[^\W_]+(?:['\N{RIGHT SINGLE QUOTATION MARK}-][^\W_]+|[.,]\d+)*")
"""A word, with its apostrophes, hyphens and decimal points."""


def phrases(caption: str) -> list[Unit]:
    """Return the phrases of a caption: the longest stretches of content words with nothing but spaces between them.

    The rule needs no model. It knows the function words of English only: in another language, a phrase ends at
    punctuation. Verbs count as content ("dog runs"). ``noun_chunks`` is the better choice where spaCy is installed.

    >>> [unit.text for unit in phrases("A photo of a small red circle, next to the stop sign.")]
    ['small red circle', 'stop sign']
    """
    units: list[Unit] = []
    for start, end in _content_words(caption):
        if units and caption[units[-1].end : start].isspace():
            start = units.pop().start
        units.append(Unit.of(caption, start, end))
    return units


def words(caption: str) -> list[Unit]:
    """Return the content words of a caption, one by one.

    >>> [unit.text for unit in words("a small red circle and a star")]
    ['small', 'red', 'circle', 'star']
    """
    return [Unit.of(caption, start, end) for start, end in _content_words(caption)]


def _content_words(caption: str) -> Iterator[tuple[int, int]]:
    for word in _WORD.finditer(caption):
        if word.group().lower() not in FUNCTION_WORDS:
            yield word.span()
