"""Text in runs of one font each: their widths, and how they are drawn. Pillow's raqm joins and orders letters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import Image, ImageDraw, features

from m2ib_lightning.results.figures.fonts import Face, default_face, face_of, load, load_scaled, region_of

Direction = Literal["ltr", "rtl"]
Colour = tuple[int, int, int]

HAS_RAQM = bool(features.check("raqm"))
"""Whether Pillow shapes text; without it letters do not join, and right-to-left words are reversed by character."""

_JOINER = "\u200d"  # at the end of a part of a word, it keeps the form that its last letter has in the word
_PICTURE = "[\U0001f000-\U0001faff\u2300-\u23ff\u2600-\u27bf\u2b05-\u2b55\u203c\u2049\u2139\u3030\u3299\u3297]"
_TONE = "[\ufe0f\U0001f3fb-\U0001f3ff\u20e3]*"
_EMOJI = re.compile(
    f"[\U0001f1e6-\U0001f1ff]{{2}}|[#*0-9]\ufe0f?\u20e3|{_PICTURE}{_TONE}(?:[\U000e0020-\U000e007f]+|"
    f"(?:{_JOINER}{_PICTURE}{_TONE})*)"
)


@dataclass(frozen=True)
class Run:
    """A part of a text that is drawn with one face."""

    text: str
    face: Face


@lru_cache(4096)
def runs_of(text: str) -> tuple[Run, ...]:
    """Split a text into runs of one face each, in reading order.

    A character keeps the marks that follow it. Characters that no font has are in the first font, as boxes.
    """
    region, runs = region_of(text), list[Run]()
    for cluster, is_emoji in _clusters(drawable(text)):
        face = _face(cluster, is_emoji, region, runs[-1].face if runs else None)
        if runs and runs[-1].face == face:
            cluster = runs.pop().text + cluster
        runs.append(Run(cluster, face))
    return tuple(runs)


def direction_of(text: str) -> Direction | None:
    """Return the direction of the first letter of a text; None if it has no letter.

    >>> direction_of("(شمس) sun"), direction_of("12 sun"), direction_of("12 %")
    ('rtl', 'ltr', None)
    """
    for character in text:
        kind = unicodedata.bidirectional(character)
        if kind in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return None


def length_of(text: str, size: int) -> float:
    """Return the width of a text in pixels."""
    return _length(text, size) if text else 0.0


def length_before(text: str, index: int, size: int, direction: Direction) -> float:
    """Return the width of the first ``index`` characters of a word, with the forms that they have in the word."""
    joiner = _JOINER if direction == "rtl" and 0 < index < len(text) and HAS_RAQM else ""
    return min(length_of(text[:index] + joiner, size), length_of(text, size))


def shortened(text: str, width: float, size: int) -> str:
    """Return a text, or as many of its first characters as fit into a width, and an ellipsis."""
    text = " ".join(text.split())
    if length_of(text, size) <= width:
        return text
    while text and length_of(f"{text}...", size) > width:
        text = text[:-1]
    return f"{text}..."


@lru_cache(8192)
def _length(text: str, size: int) -> float:
    total = 0.0
    for run in runs_of(text):
        font, scale = load_scaled(run.face, size)
        total += font.getlength(run.text) * scale
    return total


def ascent_of(size: int) -> int:
    """Return the height of the first font above the baseline, in pixels."""
    font = load(default_face(), size)
    metrics = getattr(font, "getmetrics", None)
    return int(metrics()[0]) if metrics else size


def draw_text(
    canvas: Image.Image, left: float, baseline: float, text: str, size: int, ink: Colour, direction: Direction = "ltr"
) -> None:
    """Draw a text of one direction on a picture in RGB; its left end and its baseline are in pixels."""
    runs = runs_of(text)
    for run in reversed(runs) if direction == "rtl" else runs:
        glyphs, above = _drawn(run, size, direction)
        place = round(left) - _PAD, round(baseline) - above
        if glyphs.mode == "L":
            canvas.paste(ink, (*place, place[0] + glyphs.width, place[1] + glyphs.height), glyphs)
        else:
            canvas.paste(glyphs, place, glyphs)
        left += _length(run.text, size)


_PAD = 3  # pixels around a run, for letters that reach beyond their width


@lru_cache(4096)
def _drawn(run: Run, size: int, direction: Direction) -> tuple[Image.Image, int]:
    """The pixels of a run: coverage in L, or colours in RGBA; and how many of them are above the baseline."""
    font, scale = load_scaled(run.face, size)
    text, shaped = run.text, direction if HAS_RAQM else None
    if not HAS_RAQM and direction == "rtl":
        text = text[::-1]
    left, top, right, bottom = font.getbbox(text, anchor="ls", direction=shaped) if run.face.file else _box(font, text)
    pad = round(_PAD / scale)
    above = max(0, -int(top)) + pad
    width = max(int(font.getlength(text)), int(right)) + 2 * pad - min(0, int(left))
    size_of_run = (max(1, width), max(1, above + int(bottom) + pad))
    glyphs = Image.new("RGBA" if run.face.is_colour else "L", size_of_run, 0)
    draw = ImageDraw.Draw(glyphs)
    if run.face.is_colour:
        draw.text((pad, above), text, font=font, anchor="ls", embedded_color=True, direction=shaped)
    elif run.face.file:
        draw.text((pad, above), text, fill=255, font=font, anchor="ls", direction=shaped)
    else:
        draw.text((pad, above - ascent_of(size)), text, fill=255, font=font)
    if scale != 1.0:
        smaller = max(1, round(glyphs.width * scale)), max(1, round(glyphs.height * scale))
        glyphs, above = glyphs.resize(smaller, Image.Resampling.HAMMING), round(above * scale)
    return glyphs, above


def _box(font: object, text: str) -> tuple[float, float, float, float]:
    """The box of a text in the font of Pillow, from the baseline."""
    size = getattr(font, "size", 10)
    return 0, -size, getattr(font, "getlength")(text), size // 2  # noqa: B009


def _face(cluster: str, is_emoji: bool, region: str, before: Face | None) -> Face:
    first = cluster[0]
    if before is not None and not before.is_colour and not first.isalnum() and not is_emoji and not first.isspace():
        chosen = face_of(first, region)
        return before if chosen is None else chosen
    return face_of(first, region, is_emoji) or default_face()


def _clusters(text: str) -> Iterator[tuple[str, bool]]:
    """Yield a text's characters, each with the marks that follow it, and whether it is an emoji."""
    position = 0
    while position < len(text):
        emoji = _EMOJI.match(text, position)
        if emoji is not None:
            end = emoji.end()
        else:
            end = position + 1
            while end < len(text) and unicodedata.category(text[end]) in ("Mn", "Me", "Mc", "Cf"):
                end += 1
        cluster = text[position:end]
        in_colour = emoji is not None and (len(cluster) > 1 or ord(cluster) >= 0x1F000) and "\ufe0e" not in cluster
        yield cluster, in_colour
        position = end


def drawable(text: str) -> str:
    """Return a text with a replacement for each character that no font and no XML can have."""
    return "".join(
        " " if unicodedata.category(character) == "Cc" else "\ufffd" if _is_no_character(character) else character
        for character in text
    )


def _is_no_character(character: str) -> bool:
    return "\ud800" <= character <= "\udfff" or ord(character) & 0xFFFE == 0xFFFE
