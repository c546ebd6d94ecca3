"""The caption cut into what is coloured: a token each, but tokens that share a letter are one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution


@dataclass(frozen=True)
class Span:
    """A piece of the caption.

    Attributes:
        start: its first character in the caption.
        end: one after its last.
        text: as the caption has it.
        nats: the sum over its tokens; NaN where the caption itself was not explained.
        value: the largest of its tokens on the scale of ``text_heatmap``.
    """

    start: int
    end: int
    text: str
    nats: float
    value: float


def spans(result: Attribution) -> list[Span]:
    """The tokens in order. Byte-level tokens of one letter (an accent, an emoji) have one place: they are merged."""
    caption = result.pair.caption or ""
    if result.text is None:
        found_words = re.finditer(r"\S+", caption)
        return [Span(word.start(), word.end(), word.group(), float("nan"), 0.0) for word in found_words]
    found: list[Span] = []
    for (start, end), nats, value in zip(
        result.pair.token_offsets, result.text_saliency.tolist(), result.text_heatmap.tolist(), strict=True
    ):
        if found and start < found[-1].end:
            last = found.pop()
            start, end = last.start, max(end, last.end)
            nats, value = nats + last.nats, max(value, last.value)
        found.append(Span(start, end, caption[start:end], nats, value))
    return found


def words(pieces: list[Span]) -> Iterator[list[Span]]:
    """Spans that stand together in the caption, with nothing between them."""
    word: list[Span] = []
    for piece in pieces:
        if word and piece.start > word[-1].end:
            yield word
            word = []
        word.append(piece)
    if word:
        yield word
