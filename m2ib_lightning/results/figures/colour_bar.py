"""The colour bar of a map: its colours, and the values at its ends with their unit."""

from __future__ import annotations

from PIL import Image

from m2ib_lightning.results.figures.figure import FAINT, Figure
from m2ib_lightning.results.figures.overlays import CONTOURS, bar_colours
from m2ib_lightning.results.figures.shaped_text import length_of
from m2ib_lightning.results.short_number import short_number


def colour_bar(ends: tuple[float, float], unit: str, width: float, scale: float, style: str = "alpha") -> Figure:
    """Return a horizontal bar from the lowest to the highest value of a map.

    Args:
        ends: the lowest and the highest value.
        unit: their unit; empty if there is none.
        width: width in pixels; the bar is wider if its texts need it.
        scale: size of the texts and of the bar; 1 as usual.
        style: style of the overlay, whose colours the bar shows.
    """
    size, height = round(14 * scale), round(9 * scale)
    bar = Figure()
    low, high = ends
    if not high > low:
        bar.add_text(f"constant at {short_number(low)} {unit}".rstrip(), 0, 0, size, FAINT)
        return bar
    texts = [short_number(low), f"{short_number(high)} {unit}".rstrip()]
    lengths = [length_of(text, size) for text in texts]
    width = round(max(width, sum(lengths) + size))
    bar.add_picture(bar_colours(width, style).resize((width, height), Image.Resampling.NEAREST), 0, 0)
    if style == "contour":
        for level in CONTOURS:
            bar.add_box(level * width - scale, 0, level * width + scale, height, (0, 0, 0))
    bar.add_text(texts[0], 0, height + 2 * scale, size, FAINT)
    bar.add_text(texts[1], width - lengths[1], height + 2 * scale, size, FAINT)
    return bar
