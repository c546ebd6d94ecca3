"""The picture of a result: the image, the heatmap over it, and the coloured caption."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.figures.colour_bar import colour_bar
from m2ib_lightning.results.figures.figure import FAINT, INK, Figure, line_height, rasterise
from m2ib_lightning.results.figures.overlays import OUTSIDE, Style, blend, check_style, heat_colours
from m2ib_lightning.results.figures.shaped_text import Colour
from m2ib_lightning.results.figures.text_lines import PlacedText, lay_out_words
from m2ib_lightning.results.map_placement import place_map
from m2ib_lightning.results.marked_part import marked_facts, with_outline
from m2ib_lightning.results.short_number import short_number
from m2ib_lightning.results.spans import TokenSpan, group_by_word, token_spans
from m2ib_lightning.results.tower_attribution import Floats, min_max

if TYPE_CHECKING:
    from m2ib_lightning.pairs.pair import Pair
    from m2ib_lightning.results.attribution import Attribution

__all__ = ["FAINT", "INK", "OUTSIDE", "attribution_figure", "draw_attribution", "heat_colours", "overlay"]

MARGIN = 16
FONT, SMALL = 20, 14
LARGEST = 20_000
"""Longest side of a picture in a figure, in pixels."""

_PANEL = 288  # longer side of the image and of the overlay, in pixels
_CAPTION = 360  # width of the caption's column, in pixels
_LONG = 2.2  # ratio of the sides from which a picture is a panorama
_WORD_HIGH = np.array([255, 140, 60], np.float32)


def overlay(
    result: Attribution,
    picture: Image.Image,
    style: Style = "alpha",
    ends: tuple[float, float] | None = None,
) -> Image.Image:
    """Return the picture with the heatmap on it, and the outline of the ground truth.

    It is grey where the model saw nothing.

    Args:
        result: the result.
        picture: its picture, at any size.
        style: name of the style, as for ``Attribution.figure``.
        ends: values of the lowest and the highest colour; None for those of the map at this size.
    """
    return _overlay(result, picture, style, ends)[0]


def _overlay(
    result: Attribution, picture: Image.Image, style: Style, ends: tuple[float, float] | None
) -> tuple[Image.Image, tuple[float, float]]:
    heat, ends = scaled_map(result.image_saliency, result.pair, picture.size, style, ends)
    return with_outline(result, _unseen_grey(result, blend(heat, picture, style))), ends


def scaled_map(
    saliency: Floats, pair: Pair, size: tuple[int, int], style: str = "alpha", ends: tuple[float, float] | None = None
) -> tuple[Floats, tuple[float, float]]:
    """Return a map as a heatmap (H, W) in [0, 1] at a size, and the values of its two ends.

    The map is smooth, but not for ``style="patches"``. It is 0 where the model saw nothing.
    """
    placed = place_map(saliency, pair, *size, smooth=style != "patches")
    if ends is None:
        ends, values = (float(placed.values.min()), float(placed.values.max())), min_max(placed.values)
    else:
        values = np.clip((placed.values - ends[0]) / max(ends[1] - ends[0], 1e-12), 0, 1)
    return replace(placed, values=values).on_canvas(*size, fill=0.0), ends


def _unseen_grey(result: Attribution, picture: Image.Image) -> Image.Image:
    seen = seen_pixels(result, *picture.size)
    if not seen.all():
        picture.paste(OUTSIDE, (0, 0, *picture.size), Image.fromarray(np.where(seen, 0, 255).astype(np.uint8)))
    return picture


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


def draw_attribution(
    result: Attribution, style: Style = "alpha", size: int | None = None, scale: float = 1.0
) -> Image.Image:
    """Draw the image, the overlay and the coloured caption of a result as pixels, as ``attribution_figure``."""
    return rasterise(attribution_figure(result, style, size, scale))


def attribution_figure(
    result: Attribution, style: Style = "alpha", size: int | None = None, scale: float = 1.0
) -> Figure:
    """Return the image, the overlay with its colour bar, and the coloured caption of a result.

    They stand side by side; those of a wide panorama stand below each other.

    Args:
        result: the result.
        style: as for ``Attribution.figure``.
        size: as for ``Attribution.figure``.
        scale: as for ``Attribution.figure``.

    Raises:
        M2IBError: if the pair failed, its picture was not kept, or an argument is out of range.
    """
    picture = drawable_picture(result)
    is_wide, longest = panel_side(picture.size, size, scale, _PANEL, 2 * _PANEL + _CAPTION + 2 * MARGIN)
    shown, margin = fitted_picture(picture, longest), round(MARGIN * scale)
    column = max(shown.width, round(_CAPTION * scale)) if is_wide else round(_CAPTION * scale)
    mapped, caption = overlay_figure(result, shown, style, scale), caption_figure(result, column, scale)
    figure = Figure(title=result.pair.caption or result.pair.id)
    figure.add_picture(shown, 0, 0)
    if is_wide:
        figure.add_figure(mapped, 0, shown.height + margin / 2)
        figure.add_figure(caption, 0, figure.height + margin)
    else:
        figure.add_figure(mapped, shown.width + margin, 0)
        figure.add_figure(caption, figure.width + margin, 0)
    return figure.with_margin(margin)


def drawable_picture(result: Attribution) -> Image.Image:
    """Return the picture of a result.

    Raises:
        M2IBError: if the pair failed, or its picture was not kept.
    """
    picture = result.pair.picture
    if result.error is not None or picture is None:
        raise M2IBError(f"the pair {result.pair.id!r} can't be drawn: {result.error or 'its picture was not kept'}")
    return picture


def overlay_figure(
    result: Attribution, shown: Image.Image, style: Style, scale: float, ends: tuple[float, float] | None = None
) -> Figure:
    """Return the overlay with its colour bar below it."""
    check_style(style)
    figure = Figure()
    drawn, ends = _overlay(result, shown, style, ends)
    figure.add_picture(drawn, 0, 0)
    unit = result.image_unit or result.unit
    figure.add_figure(colour_bar(ends, unit, shown.width, scale, style), 0, shown.height + 6 * scale)
    return figure


def panel_side(size: tuple[int, int], asked: int | None, scale: float, usual: int, full: int) -> tuple[bool, int]:
    """Return whether a picture is a wide panorama, and the longer side of its panel in pixels.

    Raises:
        M2IBError: if the size or the scale is out of range.
    """
    if not (asked is None or asked >= 1) or not scale > 0 or not 1 <= (asked or usual) * scale <= LARGEST:
        raise M2IBError(
            f"size must be at least 1 pixel and scale above 0, together at most {LARGEST:,} pixels, got size={asked} "
            f"and scale={scale}"
        )
    width, height = size
    is_wide, is_tall = width > _LONG * height, height > _LONG * width
    longest = asked or (full if is_wide else 2 * usual if is_tall else usual)
    return is_wide, round(longest * scale)


def fitted(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return the size of a picture whose longer side has ``longest`` pixels."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def fitted_picture(picture: Image.Image, longest: int) -> Image.Image:
    """Return a picture in RGB whose longer side has ``longest`` pixels."""
    size = fitted(picture.size, longest)
    enlarges = size[0] > picture.width
    how = Image.Resampling.BICUBIC if enlarges else Image.Resampling.HAMMING
    in_colour = picture if picture.mode == "RGB" else picture.convert("RGB")  # convert would copy it
    return in_colour.resize(size, how, reducing_gap=2.0)


def lay_out_caption(result: Attribution, width: float, line: float, size: int = FONT) -> PlacedText:
    """Break the caption into lines of ``width`` pixels, ``line`` pixels apart.

    Spaces stand only where the caption has them. Lines break between words, except in a word longer than a line.
    """
    return lay_out_words(group_by_word(token_spans(result)), width, line, size)


def caption_figure(result: Attribution, width: float, scale: float, facts: bool = True) -> Figure:
    """Return the caption with its tokens in colour, and below it the facts about the result."""
    size, figure = round(FONT * scale), Figure(width=width)
    line = round(1.7 * size)
    placed = lay_out_caption(result, width, line, size)
    for span in placed.spans:
        if span.value > 0:
            box = (span.left, span.top, span.right, span.top + line - 6 * scale)
            figure.add_box(*box, word_colour(span.value))
    add_words(figure, placed, size, 2 * scale)
    if facts:
        top = figure.height + MARGIN * scale if placed.spans else 0.0
        for fact in facts_of(result):
            if not fact.startswith("patches "):  # the colour bar says it
                top = add_paragraph(figure, fact, top, width, round(SMALL * scale), FAINT)
    return figure


def add_words(figure: Figure, placed: PlacedText, size: int, below: float = 0.0, ink: Colour = INK) -> None:
    """Add the words of a text that is laid out, ``below`` pixels below the tops of their lines."""
    for word in placed.words:
        width = word.right - word.left
        figure.add_text(word.text, word.left, word.top + below, size, ink, width, word.direction)


def add_paragraph(figure: Figure, text: str, top: float, width: float, size: int, ink: Colour = INK) -> float:
    """Add a text in lines of ``width`` pixels; return the top of what follows."""
    words = [[TokenSpan(0, len(word), word, float("nan"), 0.0)] for word in text.split()]
    line = line_height(size)
    placed = lay_out_words(words, width, line, size)
    add_words(figure, placed, size, top, ink)
    return top + (placed.words[-1].top + line if placed.words else 0)


def facts_of(result: Attribution) -> list[str]:
    """Return the lines that the drawing shows below the caption: similarity, ranges of the saliency, and warnings."""
    facts = [f"similarity {result.similarity:.3f}"]
    image_unit = result.image_unit or result.unit
    for name, part, unit in (("patches", result.image, image_unit), ("tokens", result.text, result.unit)):
        if part is not None:
            low, high = (short_number(value) for value in (part.saliency.min(), part.saliency.max()))
            facts.append(f"{name} {low} to {high} {unit}".rstrip())
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
