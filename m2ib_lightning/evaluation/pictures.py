"""The drawing of a pair, with the maps of all methods side by side."""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from m2ib_lightning.evaluation.evaluator import PairScores
from m2ib_lightning.results.drawing import font as font_of
from m2ib_lightning.results.drawing import overlay

_PANEL = 150  # pixels: the longer side of a picture
_MARGIN = 8
_LABEL = 16
_COLUMNS = 5
_INK = (32, 32, 36)


def draw_comparison(result: PairScores) -> Image.Image:
    """Draw a pair's caption, and below it the picture and the overlay of each method's map."""
    picture = result.pair.picture
    assert picture is not None, "the picture was not kept"
    scale = _PANEL / max(picture.size)
    panel = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    panels = [("", panel), *((name, overlay(attribution, panel)) for name, attribution in result.maps.items())]
    columns = min(_COLUMNS, len(panels))
    width, height = panel.width + _MARGIN, panel.height + _LABEL + _MARGIN
    size = (columns * width + _MARGIN, math.ceil(len(panels) / columns) * height + _LABEL + 2 * _MARGIN)
    canvas = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN // 2), _shortened(result.pair.caption or "", size[0]), fill=_INK, font=font_of(13))
    for index, (name, image) in enumerate(panels):
        left = _MARGIN + index % columns * width
        top = _LABEL + 2 * _MARGIN + index // columns * height
        draw.text((left, top - 2), _shortened(name, panel.width), fill=_INK, font=font_of(11))
        canvas.paste(image, (left, top + _LABEL - 2))
    return canvas


def _shortened(text: str, pixels: int) -> str:
    """Shorten a text to about this width."""
    length = max(4, pixels // 7)
    return text if len(text) <= length else text[: length - 1] + "…"
