"""A result in a terminal: the words and the map as coloured blocks, or as numbers and shades where there is no colour.

A character of a terminal is about twice as high as wide. In colours, each character is two pixels of the map, one above
the other (the upper half block, with the lower pixel as its background).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal, TextIO

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.errors import escaped
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import OUTSIDE, facts_of, heat_colours, seen_pixels
from m2ib_lightning.results.short_number import short_number
from m2ib_lightning.results.spans import group_by_word, token_spans

Colours = Literal["none", "256", "24-bit"]
"""Colours that an output shows."""

SHADES = " ░▒▓█"
"""Characters of a map without colours, from low to high."""

_ASCII_SHADES = " .:#@"
_NOT_SEEN = "x"
_RESET = "\x1b[0m"
_CUBE = np.array([0, 95, 135, 175, 215, 255])
"""Levels of each channel in the 216 colours that every terminal of 256 colours has."""

_MOST_LINES = 30
_BAR = 24


def terminal_colours(stream: TextIO, environment: Mapping[str, str]) -> Colours:
    """Return the colours that an output shows: none unless it is a terminal, or where ``NO_COLOR`` is set.

    Args:
        stream: the output.
        environment: the environment variables. ``COLORTERM`` says whether the terminal has 24-bit colours.
    """
    if not stream.isatty() or environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return "none"
    return "24-bit" if environment.get("COLORTERM") in ("truecolor", "24bit") else "256"


def terminal_lines(
    result: Attribution, colours: Colours = "none", width: int = 64, encoding: str | None = "utf-8"
) -> Iterator[str]:
    """Yield the lines that show a result in a terminal.

    Control characters of the caption are escaped. Characters that the encoding lacks become escapes, too.

    Args:
        result: the result of a pair that was explained.
        colours: colours of the terminal.
        width: largest number of columns of the map.
        encoding: encoding of the terminal; None for UTF-8.
    """
    for line in _lines(result, colours, width, _shades(encoding)):
        yield line.encode(encoding or "utf-8", "backslashreplace").decode(encoding or "utf-8")


def _lines(result: Attribution, colours: Colours, width: int, shades: str) -> Iterator[str]:
    yield from _coloured_words(result, colours) if colours != "none" else _numbered_words(result)
    yield ""
    columns, rows = _size(*result.pair.image_size, width)
    if colours == "none":
        yield from _shaded_map(result, columns, rows, shades)
    else:
        yield from _coloured_map(result, columns, rows, colours)
    yield ""
    yield _bar(result, colours, shades)
    if not seen_pixels(result, columns, rows).all():
        yield f"{'grey' if colours != 'none' else _NOT_SEEN}: not seen by the model"
    yield from map(escaped, facts_of(result))


def _shades(encoding: str | None) -> str:
    try:
        SHADES.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return _ASCII_SHADES
    return SHADES


def _size(width: int, height: int, most: int) -> tuple[int, int]:
    """Return the columns and lines of the map of a picture; it has at most ``most`` columns and 30 lines."""
    columns = max(1, min(most, round(_MOST_LINES * 2 * width / height)))
    return columns, max(1, round(columns * height / width / 2))


def _numbered_words(result: Attribution) -> Iterator[str]:
    """Yield the caption, and each word's tokens with their saliency."""
    yield escaped(result.pair.caption or "")
    for span in token_spans(result) if result.text is not None else ():
        yield f"{short_number(span.nats):>10}  {escaped(span.text)}"


def _coloured_words(result: Attribution, colours: Colours) -> Iterator[str]:
    """Yield the caption in one line, each token on the colour of its saliency."""
    words = []
    for word in group_by_word(token_spans(result)):
        pixels = heat_colours(np.array([span.value for span in word]))
        parts = zip(word, pixels, strict=True)
        words.append("".join(_on(pixel, colours) + escaped(span.text) for span, pixel in parts) + _RESET)
    yield " ".join(words if result.text is not None else [escaped(result.pair.caption or "")])


def _on(pixel: NDArray[np.floating], colours: Colours) -> str:
    """Return the sequence for text on a colour: dark on a light one, light on a dark one."""
    light = float(pixel @ np.array([0.299, 0.587, 0.114])) > 128
    ink = np.full(3, 0.0 if light else 255.0)
    return _colour(ink, colours, 38) + _colour(pixel, colours, 48)


def _colour(pixel: NDArray[np.floating], colours: Colours, layer: int) -> str:
    """Return the sequence that sets a colour: of the characters (layer 38), or behind them (48)."""
    if colours == "24-bit":
        return "\x1b[{};2;{};{};{}m".format(layer, *(round(float(channel)) for channel in pixel))
    red, green, blue = (int(np.abs(_CUBE - float(channel)).argmin()) for channel in pixel)
    return f"\x1b[{layer};5;{16 + 36 * red + 6 * green + blue}m"


def _coloured_map(result: Attribution, columns: int, rows: int, colours: Colours) -> Iterator[str]:
    pixels = heat_colours(result.heatmap_at(columns, 2 * rows))  # (2 rows, columns, 3)
    pixels[~seen_pixels(result, columns, 2 * rows)] = OUTSIDE
    for row in range(0, 2 * rows, 2):
        pairs = zip(pixels[row], pixels[row + 1], strict=True)
        cells = (_colour(upper, colours, 38) + _colour(lower, colours, 48) + "▀" for upper, lower in pairs)
        yield "".join(cells) + _RESET


def _shaded_map(result: Attribution, columns: int, rows: int, shades: str) -> Iterator[str]:
    levels = _levels(result.heatmap_at(columns, rows), shades)
    seen = seen_pixels(result, columns, rows)
    for line, visible in zip(levels, seen, strict=True):
        yield "".join(shades[level] if here else _NOT_SEEN for level, here in zip(line, visible, strict=True))


def _levels(heatmap: NDArray[np.floating], shades: str) -> NDArray[np.intp]:
    """Return the index of the shade of each value in [0, 1]."""
    return np.clip((heatmap * len(shades)).astype(np.intp), 0, len(shades) - 1)


def _bar(result: Attribution, colours: Colours, shades: str) -> str:
    """Return the scale of the map: its lowest value, the colours between, its highest value, and the unit."""
    values = np.linspace(0, 1, _BAR)
    if colours == "none":
        scale = "".join(shades[level] for level in _levels(values, shades))
    else:
        scale = "".join(f"{_colour(pixel, colours, 48)} " for pixel in heat_colours(values)) + _RESET
    low, high = float(result.image_saliency.min()), float(result.image_saliency.max())
    return f"{short_number(low)} {scale} {short_number(high)} {result.image_unit or result.unit}".rstrip()
