"""The picture of a result: the image, the heatmap over it, and the coloured caption."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.marked_part import marked_facts, with_outline
from m2ib_lightning.results.spans import TokenSpan, group_by_word, token_spans

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution


Colour = tuple[int, int, int]

_PANEL = 288  # longer side of the image and of the overlay, in pixels
_CAPTION = 360  # width of the caption's column, in pixels
MARGIN = 16
FONT, SMALL = 20, 14
INK: Colour = (32, 32, 36)
FAINT: Colour = (110, 110, 118)
OUTSIDE: Colour = (128, 128, 128)
_WORD_HIGH = np.array([255, 140, 60], np.float32)

# Dark violet, red, orange, pale yellow: lightness grows with the value, so the ramp also works in grey.
_RAMP = np.array(
    [(20, 11, 52), (87, 16, 110), (158, 40, 100), (217, 79, 62), (247, 137, 29), (249, 201, 60), (252, 250, 180)],
    np.float32,
)


def heat_colours(heatmap: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the RGB colours (..., 3) in [0, 255] for heatmap values (...) in [0, 1]."""
    position = np.clip(heatmap, 0, 1) * (len(_RAMP) - 1)
    channels = [np.interp(position, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def overlay(result: Attribution, picture: Image.Image) -> Image.Image:
    """Return the picture with the heatmap on it, dark where values are low, and the outline of the ground truth.

    It is grey where the model saw nothing.
    """
    width, height = picture.size
    heat = result.heatmap_at(width, height)[..., None]
    image = np.asarray(picture.convert("RGB"), np.float32)
    lit = image * (0.35 + 0.65 * heat)
    blended = lit * (1 - 0.55 * heat) + heat_colours(heat[..., 0]) * 0.55 * heat
    blended[~seen_pixels(result, width, height)] = OUTSIDE
    return with_outline(result, Image.fromarray(blended.round().astype(np.uint8)))


def seen_pixels(result: Attribution, width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask (height, width) of the pixels that the model saw."""
    full_width, full_height = result.pair.image_size
    left, top, right, bottom = result.pair.crop
    columns = (np.arange(width) + 0.5) * full_width / width
    rows = (np.arange(height) + 0.5) * full_height / height
    return ((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None]


def word_colour(value: float) -> Colour:
    """Return the background colour of a word for its heatmap value: white at 0, orange at 1."""
    mixed = 255 + (_WORD_HIGH - 255) * value
    red, green, blue = (round(float(channel)) for channel in mixed)
    return red, green, blue


def draw_attribution(result: Attribution) -> Image.Image:
    """Draw the image, the overlay and the coloured caption of a result side by side.

    Raises:
        M2IBError: if the pair failed, or its picture was not kept.
    """
    picture = result.pair.picture
    if result.error is not None or picture is None:
        raise M2IBError(f"the pair {result.pair.id!r} can't be drawn: {result.error or 'its picture was not kept'}")
    shown = picture.resize(fitted(picture.size, _PANEL), Image.Resampling.BICUBIC)
    caption = _draw_caption(result)
    width, height = shown.size
    panel = max(height, caption.height)
    canvas = Image.new("RGB", (2 * width + caption.width + 4 * MARGIN, panel + 2 * MARGIN), "white")
    canvas.paste(shown, (MARGIN, MARGIN))
    canvas.paste(overlay(result, shown), (width + 2 * MARGIN, MARGIN))
    canvas.paste(caption, (2 * width + 3 * MARGIN, MARGIN))
    return canvas


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size of a picture whose longer side has ``longest`` pixels."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font at a size: DejaVu if the system has it (it covers more scripts), else Pillow's default."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


@dataclass(frozen=True)
class PlacedSpan:
    """A span of the caption and its place in the drawing.

    Attributes:
        text: the text to draw.
        value: heatmap value in [0, 1], which sets the colour.
        left: left edge in pixels.
        top: top edge in pixels.
        right: right edge in pixels.
    """

    text: str
    value: float
    left: float
    top: float
    right: float


def lay_out_caption(result: Attribution, width: int, line: int) -> list[PlacedSpan]:
    """Break the caption into lines of ``width`` pixels, ``line`` pixels apart.

    Spaces stand only where the caption has them. Lines break between words, except in a word longer than a line.
    """
    return lay_out_words(group_by_word(token_spans(result)), width, line)


def lay_out_words(words: Iterable[list[TokenSpan]], width: int, line: int) -> list[PlacedSpan]:
    """Break words into lines of ``width`` pixels, ``line`` pixels apart; each word is a list of spans that touch."""
    face = font(FONT)
    space = face.getlength(" ")
    placed: list[PlacedSpan] = []
    x = y = 0.0
    for word in words:
        x += space if placed else 0.0
        if placed and x + sum(face.getlength(span.text) for span in word) > width:
            x, y = 0.0, y + line
        for span in word:
            length = face.getlength(span.text)
            if x > 0 and x + length > width:
                x, y = 0.0, y + line
            placed.append(PlacedSpan(span.text, span.value, x, y, x + length))
            x += length
    return placed


def _draw_caption(result: Attribution) -> Image.Image:
    line = round(FONT * 1.7)
    placed = lay_out_caption(result, _CAPTION, line)
    facts = facts_of(result)
    facts_top = round(placed[-1].top) + line + MARGIN if placed else 0
    height = facts_top + len(facts) * round(SMALL * 1.5)
    canvas = Image.new("RGB", (_CAPTION, height), "white")
    draw = ImageDraw.Draw(canvas)
    for span in placed:
        box = (span.left, span.top, span.right, span.top + line - 6)
        draw.rectangle(box, fill=word_colour(span.value))
        draw.text((span.left, span.top + 2), span.text, fill=INK, font=font(FONT))
    y = facts_top
    for fact in facts:
        draw.text((0, y), fact, fill=FAINT, font=font(SMALL))
        y += round(SMALL * 1.5)
    return canvas


def facts_of(result: Attribution) -> list[str]:
    """Return the lines that the drawing shows below the caption: similarity, ranges of the saliency, and warnings."""
    facts = [f"similarity {result.similarity:.3f}"]
    image_unit = result.image_unit or result.unit
    for name, part, unit in (("patches", result.image, image_unit), ("tokens", result.text, result.unit)):
        if part is not None:
            facts.append(f"{name} {part.saliency.min():.3g} to {part.saliency.max():.3g} {unit}".rstrip())
    pair = result.pair
    if result.text is None:
        facts.append("explained against an embedding: no words")
    if pair.truncated:
        facts.append("the caption goes on: the model reads no further")
    if pair.unknown:
        which = "every word" if pair.unknown == len(pair.tokens) else f"{pair.unknown} of {len(pair.tokens)} tokens"
        facts.append(f"unknown to the vocabulary: {which}")
    if pair.unread:
        facts.append(f"never read by the model: {len(pair.unread)} of {len(pair.tokens)} tokens")
    if pair.animated:
        facts.append("the first frame of several")
    return [*facts, *marked_facts(result)]
