"""The picture of a grounding: the caption with its units in colour, and the picture once for each unit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.drawing import (
    FAINT,
    FONT,
    INK,
    MARGIN,
    OUTSIDE,
    SMALL,
    draw_attribution,
    fitted,
    font,
    lay_out_words,
    seen_pixels,
)
from m2ib_lightning.results.map_placement import place_map
from m2ib_lightning.results.marked_part import with_outline
from m2ib_lightning.results.spans import TokenSpan
from m2ib_lightning.results.tower_attribution import Floats
from m2ib_lightning.results.unit_colours import Colour, tint, unit_colour, unit_spans

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

_PANEL = 232  # longer side of a picture, in pixels
_COLUMNS = 5
_LINE = round(FONT * 1.7)


def draw_result(result: Attribution) -> Image.Image:
    """Draw a result: as a grounding if it has units, else as an attribution (``draw_attribution``)."""
    return draw_grounding(result) if result.pair.units and result.units is not None else draw_attribution(result)


def draw_grounding(result: Attribution) -> Image.Image:
    """Draw the caption, the picture, and the picture once for each unit, lit where the unit's map is high.

    Raises:
        M2IBError: if the pair failed, has no units, or its picture was not kept.
    """
    picture = result.pair.picture
    if result.error is not None or picture is None or result.units is None:
        reason = result.error or ("its picture was not kept" if picture is None else "it was not grounded")
        raise M2IBError(f"the pair {result.pair.id!r} can't be drawn: {reason}")
    shown = picture.resize(fitted(picture.size, _PANEL), Image.Resampling.BICUBIC)
    panels = [_panel(with_outline(result, shown.convert("RGB")), f"similarity {result.similarity:.3f}", None)]
    for index, unit in enumerate(result.pair.units):
        share = "never read" if index in result.units.unread else f"share {result.units.shares[index]:+.3f}"
        panels.append(_panel(unit_overlay(result, index, shown), share, (unit.text, unit_colour(index))))
    columns = min(_COLUMNS, len(panels))
    width, height = panels[0].size
    row_width = columns * width + (columns - 1) * MARGIN
    caption = _draw_caption(result, row_width)
    rows = -(-len(panels) // columns)
    full_height = caption.height + rows * (height + MARGIN) + 2 * MARGIN
    canvas = Image.new("RGB", (row_width + 2 * MARGIN, full_height), "white")
    canvas.paste(caption, (MARGIN, MARGIN))
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        position = MARGIN + column * (width + MARGIN), 2 * MARGIN + caption.height + row * (height + MARGIN)
        canvas.paste(panel, position)
    return canvas


def unit_heatmap(result: Attribution, unit: int, width: int, height: int) -> Floats:
    """Return the heatmap of a unit in [0, 1] at a size of the picture, as (height, width); 0 where nothing was seen.

    Raises:
        M2IBError: if there is no such unit.
    """
    if result.units is None or not 0 <= unit < len(result.units.saliency):
        count = 0 if result.units is None else len(result.units.saliency)
        raise M2IBError(f"there is no unit {unit}: the pair {result.pair.id!r} has {count}, counted from 0")
    placed = place_map(result.units.saliency[unit], result.pair, width, height)
    low, high = float(placed.values.min()), float(placed.values.max())
    canvas = placed.on_canvas(width, height, fill=low)
    return (canvas - low) / (high - low) if high > low else np.zeros((height, width), np.float32)


def unit_overlay(result: Attribution, unit: int, picture: Image.Image) -> Image.Image:
    """Return the picture in its own colours where the unit's map is high, and faded elsewhere.

    A line in the unit's colour surrounds what is above half of the map's range.
    """
    width, height = picture.size
    heat = unit_heatmap(result, unit, width, height)
    pixels = np.asarray(picture.convert("RGB"), np.float32)
    faded = 0.72 * 255 + 0.28 * np.asarray(picture.convert("L"), np.float32)[..., None]
    mixed = faded + (pixels - faded) * heat[..., None]
    mixed[_edge(heat >= 0.5)] = unit_colour(unit)
    mixed[~seen_pixels(result, width, height)] = OUTSIDE
    return Image.fromarray(mixed.round().astype(np.uint8))


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The pixels of a line around a mask, inside it."""
    padded = Image.fromarray(np.pad(mask, 2)).convert("L")
    inner = np.asarray(padded.filter(ImageFilter.MinFilter(5))).astype(bool)[2:-2, 2:-2]
    return mask & ~inner


def _panel(picture: Image.Image, fact: str, unit: tuple[str, Colour] | None) -> Image.Image:
    """A picture with the unit's name and a fact above it."""
    head = round(SMALL * 1.7)
    panel = Image.new("RGB", (picture.width, picture.height + 2 * head), "white")
    draw = ImageDraw.Draw(panel)
    if unit is not None:
        name = _shortened(unit[0], picture.width - 8)
        draw.rectangle((0, 0, font(SMALL).getlength(name) + 8, head - 3), fill=tint(unit[1]))
        draw.text((4, 1), name, fill=INK, font=font(SMALL))
    draw.text((0, head), fact, fill=FAINT, font=font(SMALL))
    panel.paste(picture, (0, 2 * head))
    return panel


def _shortened(text: str, width: float) -> str:
    """The text, or as many of its first characters as fit, and an ellipsis."""
    text = " ".join(text.split())
    if font(SMALL).getlength(text) <= width:
        return text
    while text and font(SMALL).getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _draw_caption(result: Attribution, width: int) -> Image.Image:
    placed = lay_out_words(_words(result), width, _LINE)
    canvas = Image.new("RGB", (width, round(placed[-1].top) + _LINE if placed else 1), "white")
    draw = ImageDraw.Draw(canvas)
    for span, following in zip(placed, [*placed[1:], None], strict=True):
        if span.value >= 0:
            goes_on = following is not None and (following.value, following.top) == (span.value, span.top)
            right = following.left if following is not None and goes_on else span.right
            colour = tint(unit_colour(int(span.value)))
            draw.rectangle((span.left, span.top, right, span.top + _LINE - 6), fill=colour)
        draw.text((span.left, span.top + 2), span.text, fill=INK, font=font(FONT))
    return canvas


def _words(result: Attribution) -> Iterator[list[TokenSpan]]:
    """Yield the words of the caption, each as spans of one unit or of none."""
    word: list[TokenSpan] = []
    for span in unit_spans(result.pair):
        for part in re.finditer(r"\S+|\s+", span.text):
            if part.group().isspace():
                yield from [word] if word else []
                word = []
            else:
                start = span.start + part.start()
                word = [*word, TokenSpan(start, span.start + part.end(), part.group(), span.nats, span.value)]
    if word:
        yield word
