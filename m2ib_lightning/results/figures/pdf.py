"""A figure as PDF: text as text where Matplotlib is installed, else as pixels."""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2ib_lightning.results.figures.figure import Figure, TextItem, rasterise
from m2ib_lightning.results.figures.shaped_text import Run, draw_text, drawable, length_of, runs_of

_PIXELS_PER_INCH = 96.0
_POINTS = 72.0 / _PIXELS_PER_INCH  # of a pixel
_SHARPNESS = 4
"""Pixels of a text that has to be drawn, for one pixel of the figure."""

_ABOVE_BOXES = 4  # Matplotlib draws boxes in layer 1 and text in layer 3


def write_pdf(figure: Figure, path: Path) -> None:
    """Write a figure as PDF. Without Matplotlib its text is pixels, which is warned of."""
    try:
        backend = import_module("matplotlib.backends.backend_pdf")
    except ImportError:
        warnings.warn(
            f"{path.name}: the text is pixels, because Matplotlib is not installed "
            "(pip install 'm2ib_lightning[figures]'); .svg has text as text without it",
            stacklevel=4,
        )
        rasterise(figure).save(path, format="PDF", resolution=_PIXELS_PER_INCH)
        return
    with import_module("matplotlib").rc_context({"pdf.fonttype": 42, "savefig.dpi": _PIXELS_PER_INCH}):
        drawn, axes = _page(figure)
        for item in figure.pictures:
            _add_picture(axes, item.picture, item.left, item.top, 1.0)
        for box in figure.boxes:
            size = box.right - box.left, box.bottom - box.top
            patch = import_module("matplotlib.patches").Rectangle(
                (box.left, box.top), *size, facecolor=_fraction(box.fill), linewidth=0
            )
            axes.add_patch(patch)
        for text in figure.texts:
            _add_text(axes, text)
        axes.set_xlim(0, figure.width)
        axes.set_ylim(figure.height, 0)
        backend.FigureCanvasPdf(drawn).print_pdf(path, metadata={"Title": drawable(figure.title), "CreationDate": None})


def _page(figure: Figure) -> tuple[Any, Any]:
    size = figure.width / _PIXELS_PER_INCH, figure.height / _PIXELS_PER_INCH
    drawn = import_module("matplotlib.figure").Figure(figsize=size)
    axes = drawn.add_axes((0, 0, 1, 1))
    axes.axis("off")
    return drawn, axes


def _add_picture(axes: Any, picture: Image.Image, left: float, top: float, pixel: float, layer: int = 0) -> None:
    right, bottom = left + picture.width * pixel, top + picture.height * pixel
    edges = (left, right, bottom, top)
    axes.imshow(np.asarray(picture), extent=edges, interpolation="none", aspect="auto", zorder=layer)


def _add_text(axes: Any, item: TextItem) -> None:
    left, runs = item.left, runs_of(item.text)
    for run in reversed(runs) if item.direction == "rtl" else runs:
        font = _font_of(run, item)
        if font is None:
            _add_drawn_text(axes, run, item, left)
        else:
            axes.text(
                *(left, item.baseline, run.text),
                fontproperties=font,
                fontsize=item.size * _POINTS,
                color=_fraction(item.ink),
                ha="left",
                va="baseline",
                parse_math=False,
            )
        left += length_of(run.text, item.size)


def _font_of(run: Run, item: TextItem) -> Any:
    """Matplotlib's font for a run; None where it would not draw it as Pillow does.

    Before 3.11 it joins and orders no letters, and reads the first font of a file only.
    """
    manager = import_module("matplotlib.font_manager")
    shapes = hasattr(manager, "FontPath")
    is_simple = item.direction == "ltr" and max(run.text) < "\u0590"
    if run.face.file is None or run.face.is_colour or not (shapes or is_simple):
        return None
    file = manager.FontPath(run.face.file, run.face.index) if shapes else run.face.file
    return manager.FontProperties(fname=file)


def _add_drawn_text(axes: Any, run: Run, item: TextItem, left: float) -> None:
    size, pad = item.size * _SHARPNESS, item.size
    baseline = round(1.4 * size)
    canvas = Image.new("RGB", (max(1, round(length_of(run.text, size)) + 2 * pad), 2 * size), "white")
    draw_text(canvas, pad, baseline, run.text, size, item.ink, item.direction)
    pixels = np.asarray(canvas)
    coverage = 255 * (pixels < 250).any(-1) if run.face.is_colour else 255 - np.asarray(canvas.convert("L"))
    shown = Image.fromarray(np.dstack([pixels, coverage]).astype(np.uint8))
    pixel = 1 / _SHARPNESS
    _add_picture(axes, shown, left - pad * pixel, item.baseline - baseline * pixel, pixel, _ABOVE_BOXES)


def _fraction(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
