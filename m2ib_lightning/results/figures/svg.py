"""A figure as SVG: its pictures are embedded, and its text stays text."""

from __future__ import annotations

import base64
import io
from html import escape

from m2ib_lightning.results.figures.figure import Figure, PictureItem, TextItem
from m2ib_lightning.results.figures.shaped_text import Colour, drawable

_STYLE = (
    "text{font-family:'DejaVu Sans','Noto Sans','Noto Sans Arabic','Noto Sans Hebrew','Noto Sans Devanagari',"
    "'Noto Sans CJK SC','Noto Color Emoji',sans-serif;white-space:pre}"
)


def to_svg(figure: Figure) -> str:
    """Return a figure as a file in SVG. All data is escaped; it loads nothing from elsewhere."""
    width, height, title = _number(figure.width), _number(figure.height), escape(drawable(figure.title))
    boxes = (
        f'<rect x="{_number(box.left)}" y="{_number(box.top)}" width="{_number(box.right - box.left)}" '
        f'height="{_number(box.bottom - box.top)}" fill="{_colour(box.fill)}"/>'
        for box in figure.boxes
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
            f"<title>{title}</title><style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            *map(_picture, figure.pictures),
            *boxes,
            *map(_text, figure.texts),
            "</svg>\n",
        ]
    )


def _picture(item: PictureItem) -> str:
    buffer = io.BytesIO()
    item.picture.save(buffer, "PNG")
    return (
        f'<image x="{_number(item.left)}" y="{_number(item.top)}" width="{item.picture.width}" '
        f'height="{item.picture.height}" href="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"/>'
    )


def _text(item: TextItem) -> str:
    """A text that takes the width it was laid out with, whatever font the viewer has."""
    is_right_to_left = item.direction == "rtl"
    start = item.left + item.width if is_right_to_left else item.left
    direction = ' direction="rtl" unicode-bidi="embed"' if is_right_to_left else ""
    length = f' textLength="{_number(item.width)}" lengthAdjust="spacingAndGlyphs"' if item.width > 0 else ""
    return (
        f'<text x="{_number(start)}" y="{_number(item.baseline)}" font-size="{item.size}" '
        f'fill="{_colour(item.ink)}"{direction}{length}>{escape(drawable(item.text))}</text>'
    )


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _colour(colour: Colour) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
