"""The caption as coloured spans: one for each token, except that tokens of one character are merged."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution


@dataclass(frozen=True)
class TokenSpan:
    """A stretch of the caption that one or more tokens stand for.

    Attributes:
        start: index of the first character in the caption.
        end: index after the last character.
        text: the characters of the stretch.
        nats: sum of the tokens' saliency; NaN if the caption was not explained.
        value: largest value of the tokens in ``text_heatmap``; 0 if the caption was not explained.
    """

    start: int
    end: int
    text: str
    nats: float
    value: float


def token_spans(result: Attribution) -> list[TokenSpan]:
    """Return the spans of a result's caption in order.

    Byte-level tokens of one character (an accent, an emoji) share its offsets, so they are merged. If the caption was
    not explained, each word is an uncoloured span.
    """
    caption = result.pair.caption or ""
    if result.text is None:
        words = re.finditer(r"\S+", caption)
        return [TokenSpan(word.start(), word.end(), word.group(), float("nan"), 0.0) for word in words]
    spans: list[TokenSpan] = []
    for (start, end), nats, value in zip(
        result.pair.token_offsets, result.text_saliency.tolist(), result.text_heatmap.tolist(), strict=True
    ):
        if spans and start < spans[-1].end:
            last = spans.pop()
            start, end = last.start, max(end, last.end)
            nats, value = nats + last.nats, max(value, last.value)
        spans.append(TokenSpan(start, end, caption[start:end], nats, value))
    return spans


def group_by_word(spans: list[TokenSpan]) -> Iterator[list[TokenSpan]]:
    """Yield the spans of each word: spans that touch in the caption form one word."""
    word: list[TokenSpan] = []
    for span in spans:
        if word and span.start > word[-1].end:
            yield word
            word = []
        word.append(span)
    if word:
        yield word
