"""The drawing of a pair, with the maps of all methods side by side."""

from __future__ import annotations

from PIL import Image

from m2ib_lightning.evaluation.evaluator import PairScores
from m2ib_lightning.results.drawing import add_paragraph, fitted_picture, overlay
from m2ib_lightning.results.figures.figure import Figure, line_height, rasterise
from m2ib_lightning.results.figures.shaped_text import shortened

_PANEL = 150  # pixels: the longer side of a picture
_MARGIN = 8
_COLUMNS = 5
_CAPTION, _NAME = 13, 11  # sizes of texts


def draw_comparison(result: PairScores) -> Image.Image:
    """Draw a pair's caption, and below it the picture and the overlay of each method's map."""
    picture = result.pair.picture
    assert picture is not None, "the picture was not kept"
    shown = fitted_picture(picture, _PANEL)
    panels = [("", shown), *((name, overlay(attribution, shown)) for name, attribution in result.maps.items())]
    columns = min(_COLUMNS, len(panels))
    width, height = max(shown.width, _PANEL // 2) + _MARGIN, shown.height + line_height(_NAME) + _MARGIN
    figure = Figure()
    top = add_paragraph(figure, result.pair.caption or "", 0, columns * width - _MARGIN, _CAPTION) + _MARGIN
    for index, (name, image) in enumerate(panels):
        row, column = divmod(index, columns)
        figure.add_text(shortened(name, width - _MARGIN, _NAME), column * width, top + row * height, _NAME)
        figure.add_picture(image, column * width, top + row * height + line_height(_NAME))
    return rasterise(figure.with_margin(_MARGIN))
