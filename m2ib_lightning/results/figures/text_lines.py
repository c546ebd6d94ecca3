"""Lines of a caption: where they break, and where each word and each of its spans stands, in either direction."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from m2ib_lightning.results.figures.shaped_text import Direction, direction_of, length_before, length_of
from m2ib_lightning.results.spans import TokenSpan


@dataclass(frozen=True)
class PlacedSpan:
    """A span of the caption and its place in the drawing.

    Attributes:
        text: the characters of the span.
        value: heatmap value in [0, 1], which sets the colour.
        left: left edge in pixels.
        top: top edge of its line in pixels.
        right: right edge in pixels.
    """

    text: str
    value: float
    left: float
    top: float
    right: float


@dataclass(frozen=True)
class PlacedWord:
    """A stretch of the caption that is drawn at once, so that its letters join.

    Attributes:
        text: the characters, in reading order.
        left: left edge in pixels.
        top: top edge of its line in pixels.
        right: right edge in pixels.
        direction: the direction in which it is read.
    """

    text: str
    left: float
    top: float
    right: float
    direction: Direction


@dataclass(frozen=True)
class PlacedText:
    """A caption in lines: its spans, for the colours, and its words, for the letters; both in reading order."""

    spans: list[PlacedSpan]
    words: list[PlacedWord]


@dataclass(frozen=True)
class _Chunk:
    """Spans that stay together on a line."""

    spans: tuple[TokenSpan, ...]
    after_space: bool
    width: float = 0.0
    direction: Direction | None = None

    @property
    def text(self) -> str:
        return "".join(span.text for span in self.spans)


def lay_out_words(words: Iterable[Sequence[TokenSpan]], width: float, line: float, size: int) -> PlacedText:
    """Break words into lines of ``width`` pixels, ``line`` pixels apart; each word is a sequence of spans that touch.

    Lines break between words, between Chinese or Japanese characters, and in a word that is longer than a line. The
    first letter of the text decides its direction: text from right to left is aligned at the right.
    """
    chunks = [chunk for word in words for chunk in _chunks(word, width, size)]
    base: Direction = next((chunk.direction for chunk in chunks if chunk.direction), "ltr")
    space = length_of(" ", size)
    placed = PlacedText([], [])
    for number, items in enumerate(_lines(chunks, width, space)):
        _place_line(placed, items, base, width, number * line, space, size)
    return placed


def _chunks(word: Sequence[TokenSpan], width: float, size: int) -> Iterator[_Chunk]:
    pending, is_first = list[TokenSpan](), True
    pieces = [piece for span in word for piece in _fitting(span, width, size)]
    for piece, following in zip(pieces, [*pieces[1:], None], strict=True):
        pending.append(piece)
        text = "".join(span.text for span in pending)
        is_too_long = following is not None and length_of(text + following.text, size) > width
        if following is None or is_too_long or _may_break(piece.text, following.text):
            yield _Chunk(tuple(pending), is_first, length_of(text, size), direction_of(text))
            pending, is_first = [], False


def _fitting(span: TokenSpan, width: float, size: int) -> Iterator[TokenSpan]:
    """Yield a span whole, or in parts where it has to break: it is longer than a line, or may break inside."""
    if length_of(span.text, size) <= width and not any(_is_wide(character) for character in span.text):
        yield span
        return
    start = 0
    for end in range(1, len(span.text)):
        breaks = _may_break(span.text[end - 1], span.text[end])
        if breaks or (length_of(span.text[start : end + 1], size) > width and not _is_mark(span.text[end])):
            yield replace(span, text=span.text[start:end], start=span.start + start, end=span.start + end)
            start = end
    yield replace(span, text=span.text[start:], start=span.start + start) if start else span


def _is_wide(character: str) -> bool:
    return character > "\u2e7f" and unicodedata.east_asian_width(character) in "WF"


def _is_mark(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf")


def _may_break(before: str, after: str) -> bool:
    """Whether a line may break between two texts that touch: one side is Chinese, Japanese or the like."""
    if not before or not after:
        return False
    if not (_is_wide(before[-1]) or _is_wide(after[0])):
        return False
    opens, closes = unicodedata.category(before[-1]) in ("Ps", "Pi"), unicodedata.category(after[0])[0] == "P"
    is_letter = all(unicodedata.category(character) in ("Lo", "Po", "Pe") for character in (before[-1], after[0]))
    return is_letter and not opens and not closes


def _lines(chunks: Sequence[_Chunk], width: float, space: float) -> Iterator[list[_Chunk]]:
    line, x = list[_Chunk](), 0.0
    for chunk in chunks:
        gap = space if line and chunk.after_space else 0.0
        if line and x + gap + chunk.width > width:
            yield line
            line, x, gap = [], 0.0, 0.0
        line.append(chunk)
        x += gap + chunk.width
    if line:
        yield line


def _place_line(
    placed: PlacedText, line: list[_Chunk], base: Direction, width: float, top: float, space: float, size: int
) -> None:
    """Place the chunks of a line, and add their spans and words in reading order."""
    lefts = _lefts(line, base, width, space)
    for chunk, direction, left in zip(line, _directions(line, base), lefts, strict=True):
        placed.words.append(PlacedWord(chunk.text, left, top, left + chunk.width, direction))
        ends, index = [0.0], 0
        for span in chunk.spans:
            index += len(span.text)
            ends.append(max(ends[-1], length_before(chunk.text, index, size, direction)))
        for span, start, end in zip(chunk.spans, ends, ends[1:], strict=False):
            edges = (left + start, left + end)
            if direction == "rtl":
                edges = (left + chunk.width - end, left + chunk.width - start)
            placed.spans.append(PlacedSpan(span.text, span.value, edges[0], top, edges[1]))


def _directions(line: Sequence[_Chunk], base: Direction) -> list[Direction]:
    """The direction of each chunk; one without letters goes with both its neighbours, or with the whole text."""
    known = [chunk.direction for chunk in line]
    before, found = list[Direction](), base
    for direction in known:
        found = direction or found
        before.append(found)
    after, found = list[Direction](), base
    for direction in reversed(known):
        found = direction or found
        after.append(found)
    return [a if a == b else base for a, b in zip(before, reversed(after), strict=True)]


def _lefts(line: Sequence[_Chunk], base: Direction, width: float, space: float) -> list[float]:
    """The left edge of each chunk of a line: runs of one direction stand in it, the runs in that of the text."""
    directions = _directions(line, base)
    runs = [list(indices) for _, indices in groupby(range(len(line)), key=lambda index: directions[index])]
    order = list[tuple[int, float]]()  # chunk, and the gap to its left
    for run in reversed(runs) if base == "rtl" else runs:
        is_right_to_left = directions[run[0]] == "rtl"
        shown = run[::-1] if is_right_to_left else run
        for place, index in enumerate(shown):
            if place:
                later = shown[place - 1] if is_right_to_left else index
            else:  # the gap between two runs is the one before the later run
                later = run[0] if base == "ltr" else run[-1] + 1
            has_gap = bool(order) and later < len(line) and line[later].after_space
            order.append((index, space if has_gap else 0.0))
    x = 0.0 if base == "ltr" else width - sum(gap + line[index].width for index, gap in order)
    lefts = [0.0] * len(line)
    for index, gap in order:
        lefts[index] = x + gap
        x += gap + line[index].width
    return lefts
