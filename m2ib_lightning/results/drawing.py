"""The picture of a result: the image, its overlay, and the caption with its tokens coloured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.spans import spans, words

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution


Colour = tuple[int, int, int]

_PANEL = 288  # pixels: the longer side of the image and of the overlay
_CAPTION = 360  # pixels: width of the caption's column
_MARGIN = 16
_FONT, _SMALL = 20, 14
_INK: Colour = (32, 32, 36)
_FAINT: Colour = (110, 110, 118)
_OUTSIDE: Colour = (128, 128, 128)
_WORD_HIGH = np.array([255, 140, 60], np.float32)

# From dark violet over red and orange to pale yellow: lightness grows with the value, also in grey.
_RAMP = np.array(
    [(20, 11, 52), (87, 16, 110), (158, 40, 100), (217, 79, 62), (247, 137, 29), (249, 201, 60), (252, 250, 180)],
    np.float32,
)


def heat_colours(heatmap: NDArray[np.floating]) -> NDArray[np.float32]:
    """(..., 3) RGB in [0, 255] for values in [0, 1]."""
    position = np.clip(heatmap, 0, 1) * (len(_RAMP) - 1)
    channels = [np.interp(position, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def overlay(result: Attribution, picture: Image.Image) -> Image.Image:
    """The heatmap on the picture: dark where little passes, grey outside what the model saw."""
    width, height = picture.size
    heat = result.heatmap_at(width, height)[..., None]
    image = np.asarray(picture.convert("RGB"), np.float32)
    lit = image * (0.35 + 0.65 * heat)
    blended = lit * (1 - 0.55 * heat) + heat_colours(heat[..., 0]) * 0.55 * heat
    blended[~_inside(result, width, height)] = _OUTSIDE
    return Image.fromarray(blended.round().astype(np.uint8))


def _inside(result: Attribution, width: int, height: int) -> NDArray[np.bool_]:
    full_width, full_height = result.pair.image_size
    left, top, right, bottom = result.pair.crop
    columns = (np.arange(width) + 0.5) * full_width / width
    rows = (np.arange(height) + 0.5) * full_height / height
    return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]


def word_colour(value: float) -> Colour:
    """The background of a word: white at 0, orange at 1."""
    mixed = 255 + (_WORD_HIGH - 255) * value
    red, green, blue = (round(float(channel)) for channel in mixed)
    return red, green, blue


def draw_attribution(result: Attribution) -> Image.Image:
    """Image, overlay and coloured caption, side by side.

    Raises:
        M2IBError: if the pair failed, or its picture was not kept.
    """
    picture = result.pair.picture
    if result.error is not None or picture is None:
        raise M2IBError(f"the pair {result.pair.id!r} can't be drawn: {result.error or 'its picture was not kept'}")
    shown = picture.resize(_fitted(picture.size), Image.Resampling.BICUBIC)
    caption = _draw_caption(result)
    width, height = shown.size
    panel = max(height, caption.height)
    canvas = Image.new("RGB", (2 * width + caption.width + 4 * _MARGIN, panel + 2 * _MARGIN), "white")
    canvas.paste(shown, (_MARGIN, _MARGIN))
    canvas.paste(overlay(result, shown), (width + 2 * _MARGIN, _MARGIN))
    canvas.paste(caption, (2 * width + 3 * _MARGIN, _MARGIN))
    return canvas


def _fitted(size: tuple[int, int]) -> tuple[int, int]:
    scale = _PANEL / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """DejaVu where the system has it (it knows more scripts), else the one in Pillow."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


@dataclass(frozen=True)
class Word:
    """A piece of the caption where it is drawn: its text, its value in [0, 1]; left, top and right in pixels."""

    text: str
    value: float
    left: float
    top: float
    right: float


def lay_out_words(result: Attribution, width: int, line: int) -> list[Word]:
    """Flow the caption into lines: real widths, a space only where the caption has one, breaks only between words."""
    face = font(_FONT)
    space = face.getlength(" ")
    placed: list[Word] = []
    x = y = 0.0
    for word in words(spans(result)):
        x += space if placed else 0.0
        if placed and x + sum(face.getlength(piece.text) for piece in word) > width:
            x, y = 0.0, y + line
        for piece in word:
            length = face.getlength(piece.text)
            if x > 0 and x + length > width:  # a word longer than a line
                x, y = 0.0, y + line
            placed.append(Word(piece.text, piece.value, x, y, x + length))
            x += length
    return placed


def _draw_caption(result: Attribution) -> Image.Image:
    line = round(_FONT * 1.7)
    placed = lay_out_words(result, _CAPTION, line)
    facts = facts_of(result)
    end = round(placed[-1].top) + line + _MARGIN if placed else 0
    height = end + len(facts) * round(_SMALL * 1.5)
    canvas = Image.new("RGB", (_CAPTION, height), "white")
    draw = ImageDraw.Draw(canvas)
    for word in placed:
        box = (word.left, word.top, word.right, word.top + line - 6)
        draw.rectangle(box, fill=word_colour(word.value))
        draw.text((word.left, word.top + 2), word.text, fill=_INK, font=font(_FONT))
    y = end
    for fact in facts:
        draw.text((0, y), fact, fill=_FAINT, font=font(_SMALL))
        y += round(_SMALL * 1.5)
    return canvas


def facts_of(result: Attribution) -> list[str]:
    """The lines under the caption."""
    facts = [f"similarity {result.similarity:.3f}"]
    for what, part in (("patches", result.image), ("tokens", result.text)):
        if part is not None:
            facts.append(f"{what} {part.saliency.min():.3g} to {part.saliency.max():.3g} {result.unit}".rstrip())
    pair = result.pair
    if result.text is None:
        facts.append("explained against an embedding: no words")
    if pair.truncated:
        facts.append("the caption goes on: the model reads no further")
    if pair.unknown:
        which = "every word" if pair.unknown == len(pair.tokens) else f"{pair.unknown} of {len(pair.tokens)} tokens"
        facts.append(f"unknown to the vocabulary: {which}")
    if pair.animated:
        facts.append("the first frame of several")
    return facts
