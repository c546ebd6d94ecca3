"""The picture of a grounding: the caption with its units in colour, and the picture once for each unit."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageFilter

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.drawing import (
    FONT,
    MARGIN,
    OUTSIDE,
    SMALL,
    add_words,
    draw_attribution,
    fitted_picture,
    panel_side,
    scaled_map,
    seen_pixels,
)
from m2ib_lightning.results.figures.figure import FAINT, Figure, line_height, rasterise
from m2ib_lightning.results.figures.overlays import Style, blend, check_style, edge_of
from m2ib_lightning.results.figures.shaped_text import direction_of, length_of, shortened
from m2ib_lightning.results.figures.text_lines import PlacedSpan, PlacedText, lay_out_words
from m2ib_lightning.results.map_placement import place_map
from m2ib_lightning.results.marked_part import with_outline
from m2ib_lightning.results.short_number import short_number
from m2ib_lightning.results.spans import TokenSpan
from m2ib_lightning.results.tower_attribution import Floats, min_max
from m2ib_lightning.results.unit_colours import Colour, tint, unit_colour, unit_spans

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

_PANEL = 232  # longer side of a picture, in pixels
_COLUMNS = 5
_FADED = (0.72 * 255, 0.28)  # a picture where a map is low: white, and this much of its grey


def draw_result(result: Attribution) -> Image.Image:
    """Draw a result: as a grounding if it has units, else as an attribution (``draw_attribution``)."""
    return draw_grounding(result) if result.pair.units and result.units is not None else draw_attribution(result)


def draw_grounding(
    result: Attribution, style: Style = "alpha", size: int | None = None, scale: float = 1.0
) -> Image.Image:
    """Draw a grounding as pixels, as ``grounding_figure``."""
    return rasterise(grounding_figure(result, style, size, scale))


def grounding_figure(
    result: Attribution, style: Style = "alpha", size: int | None = None, scale: float = 1.0
) -> Figure:
    """Return the caption, the picture, and the picture once for each unit, lit where the unit's map is high.

    Args:
        result: the result.
        style: as for ``Grounding.figure``.
        size: as for ``Grounding.figure``.
        scale: as for ``Grounding.figure``.

    Raises:
        M2IBError: if the pair failed, has no units, its picture was not kept, or an argument is out of range.
    """
    picture = result.pair.picture
    if result.error is not None or picture is None or result.units is None:
        reason = result.error or ("its picture was not kept" if picture is None else "it was not grounded")
        raise M2IBError(f"the pair {result.pair.id!r} can't be drawn: {reason}")
    check_style(style)
    margin, usual_row = round(MARGIN * scale), _COLUMNS * _PANEL + (_COLUMNS - 1) * MARGIN
    is_wide, longest = panel_side(picture.size, size, scale, _PANEL, usual_row // 2)
    shown = fitted_picture(picture, longest)
    similarity = f"similarity {result.similarity:.3f}"
    panels = [_panel(with_outline(result, shown), ("", similarity), None, scale)]
    for index, unit in enumerate(result.pair.units):
        facts = (f"share {result.units.shares[index]:+.3f}", _ends(result, index))
        if index in result.units.unread:
            facts = ("never read", "")
        lit = unit_overlay(result, index, shown, style)
        panels.append(_panel(lit, facts, (unit.text, unit_colour(index)), scale))
    column = max(panel.width for panel in panels)
    columns = min(2 if is_wide else _COLUMNS, len(panels), max(1, round(_COLUMNS * _PANEL * scale / column)))
    row_width = columns * column + (columns - 1) * margin
    figure = _caption(result, max(row_width, round(2 * _PANEL * scale)), scale)
    top, height = figure.height + margin, max(panel.height for panel in panels)
    for index, panel in enumerate(panels):
        row, place = divmod(index, columns)
        figure.add_figure(panel, place * (column + margin), top + row * (height + margin))
    figure.title = result.pair.caption or result.pair.id
    return figure.with_margin(margin)


def _ends(result: Attribution, unit: int) -> str:
    """The lowest and the highest value of a unit's map, with their unit."""
    assert result.units is not None
    values = result.units.saliency[unit]
    return f"{short_number(values.min())} to {short_number(values.max())} {result.image_unit or result.unit}".rstrip()


def unit_heatmap(result: Attribution, unit: int, width: int, height: int) -> Floats:
    """Return the heatmap of a unit in [0, 1] at a size of the picture, as (height, width); 0 where nothing was seen.

    Raises:
        M2IBError: if there is no such unit.
    """
    placed = place_map(_saliency(result, unit), result.pair, width, height)
    return replace(placed, values=min_max(placed.values)).on_canvas(width, height, fill=0.0)


def _saliency(result: Attribution, unit: int) -> Floats:
    if result.units is None or not 0 <= unit < len(result.units.saliency):
        count = 0 if result.units is None else len(result.units.saliency)
        raise M2IBError(f"there is no unit {unit}: the pair {result.pair.id!r} has {count}, counted from 0")
    saliency: Floats = result.units.saliency[unit]
    return saliency


def unit_overlay(result: Attribution, unit: int, picture: Image.Image, style: Style = "alpha") -> Image.Image:
    """Return the picture with the map of a unit.

    ``alpha`` and ``patches`` keep the picture's colours where the map is high, and fade the rest; a line in the unit's
    colour surrounds what is above half of the map's range. ``contour`` has this line alone, ``side`` the map alone.
    """
    width, height = picture.size
    heat, _ = scaled_map(_saliency(result, unit), result.pair, picture.size, style)
    if style == "side":
        mixed = blend(heat, picture, style)
    else:
        mixed = picture.convert("RGB") if picture.mode != "RGB" else picture.copy()
        if style != "contour":
            white, grey = _FADED
            faded = picture.convert("L").point([round(white + grey * level) for level in range(256)]).convert("RGB")
            mixed = Image.composite(mixed, faded, Image.fromarray((heat * 255 + 0.5).astype(np.uint8)))
        inside = Image.fromarray(np.where(heat >= 0.5, 255, 0).astype(np.uint8))
        edge = edge_of(inside, 5)
        if style == "contour":  # white sets the line off from the picture
            mixed.paste("white", (0, 0, width, height), edge.filter(ImageFilter.MaxFilter(3)))
        mixed.paste(unit_colour(unit), (0, 0, width, height), edge)
    unseen = Image.fromarray(np.where(seen_pixels(result, width, height), 0, 255).astype(np.uint8))
    mixed.paste(OUTSIDE, (0, 0, width, height), unseen)
    return mixed


def _panel(picture: Image.Image, facts: tuple[str, str], unit: tuple[str, Colour] | None, scale: float) -> Figure:
    """A picture with the unit's name and two facts above it."""
    size = round(SMALL * scale)
    head, panel = line_height(size) + round(3 * scale), Figure()
    if unit is not None:
        name = shortened(unit[0], max(picture.width, 120 * scale) - 8 * scale, size)
        length = length_of(name, size)
        panel.add_box(0, 0, length + 8 * scale, head - 3 * scale, tint(unit[1]))
        panel.add_text(name, 4 * scale, scale, size, width=length, direction=direction_of(name) or "ltr")
    for place, fact in enumerate(facts, 1):
        if fact:
            panel.add_text(fact, 0, place * head, size, FAINT)
    panel.add_picture(picture, 0, 3 * head)
    return panel


def _caption(result: Attribution, width: float, scale: float) -> Figure:
    size, figure = round(FONT * scale), Figure(width=width)
    line = round(1.7 * size)
    placed = lay_out_words(_words(result), width, line, size)
    for span, right in _backgrounds(placed):
        colour = tint(unit_colour(int(span.value)))
        figure.add_box(span.left, span.top, right, span.top + line - 6 * scale, colour)
    add_words(figure, placed, size, 2 * scale)
    return figure


def _backgrounds(placed: PlacedText) -> Iterator[tuple[PlacedSpan, float]]:
    """Yield each span of a unit, and the right end of its ground: that of the unit's next word on the line, if any."""
    shown = sorted(placed.spans, key=lambda span: (span.top, span.left))
    for span, following in zip(shown, [*shown[1:], None], strict=True):
        if span.value >= 0:
            goes_on = following is not None and (following.value, following.top) == (span.value, span.top)
            yield span, following.left if following is not None and goes_on else span.right


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
