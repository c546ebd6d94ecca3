"""The styles of an overlay: how a map lies on its picture."""

from __future__ import annotations

from functools import cache
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.figures.shaped_text import Colour

Style = Literal["alpha", "contour", "patches", "side"]
STYLES: tuple[str, ...] = get_args(Style)

OUTSIDE: Colour = (128, 128, 128)
"""Colour of what the model does not see."""

CONTOURS = (0.25, 0.5, 0.75)
"""Values of a heatmap that have a line in ``style="contour"``."""

_STRONGEST = 0.85  # opacity of the highest value
_GREY = 0.5  # part of the picture's own colours that makes way for grey, so that they are not taken for the map's

_BAR_GROUND: Colour = (190, 190, 190)

# Dark violet, red, orange, pale yellow, after inferno. Lightness grows in equal steps, so that the ramp also works in
# grey and for the common kinds of colour blindness.
_RAMP = np.array(
    [(20, 11, 52), (87, 16, 110), (158, 40, 100), (217, 79, 62), (247, 137, 29), (249, 201, 60), (252, 250, 180)],
    np.float32,
)


def check_style(style: str) -> None:
    """Check the name of a style.

    Raises:
        M2IBError: if there is no such style.
    """
    if style not in STYLES:
        raise M2IBError(f"style must be one of {', '.join(STYLES)}, got {style!r}")


def heat_colours(heatmap: NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the RGB colours (..., 3) in [0, 255] for heatmap values (...) in [0, 1]."""
    position = np.clip(heatmap, 0, 1) * (len(_RAMP) - 1)
    channels = [np.interp(position, np.arange(len(_RAMP)), _RAMP[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def blend(heat: NDArray[np.float32], picture: Image.Image, style: str = "alpha") -> Image.Image:
    """Return a picture with its map.

    ``alpha`` and ``patches`` lay the colours over the picture, opaque where the map is high; where it is low the
    picture shows, with half of its colours. ``contour`` draws lines. ``side`` shows the map alone.

    Args:
        heat: heatmap (H, W) in [0, 1], at the size of the picture.
        picture: the picture.
        style: name of the style.
    """
    if style == "contour":
        return _contours(heat, picture)
    levels = (np.clip(heat, 0, 1) * 255 + 0.5).astype(np.uint8)
    colours = Image.fromarray(_table()[levels])
    if style == "side":
        return colours
    ground = Image.blend(picture.convert("RGB"), picture.convert("L").convert("RGB"), _GREY)
    return Image.composite(colours, ground, Image.fromarray(_opacity()[levels]))


def bar_colours(length: int, style: str) -> Image.Image:
    """Return the colours from the lowest to the highest value as they look on grey, as a picture one pixel high."""
    heat = np.linspace(0, 1, length, dtype=np.float32)[None]
    return blend(heat, Image.new("RGB", (length, 1), _BAR_GROUND), "side" if style == "contour" else style)


@cache
def _table() -> NDArray[np.uint8]:
    """The colours (256, 3) of 256 levels."""
    return heat_colours(np.linspace(0, 1, 256)).round().astype(np.uint8)


@cache
def _opacity() -> NDArray[np.uint8]:
    """The opacity of 256 levels."""
    return (255 * _STRONGEST * np.linspace(0, 1, 256) ** 0.8).round().astype(np.uint8)


def _contours(heat: NDArray[np.float32], picture: Image.Image) -> Image.Image:
    """The picture with a line at each of the values, in its colour; a black or white border sets it off."""
    drawn = picture.convert("RGB").copy()
    width = 2 * max(2, round(max(drawn.size) / 300)) + 1
    for level in CONTOURS:
        inside = Image.fromarray(np.where(heat >= level, 255, 0).astype(np.uint8))
        edge = ImageChops.subtract(inside, inside.filter(ImageFilter.MinFilter(width)))
        red, green, blue = heat_colours(np.array(level)).round().astype(int).tolist()
        border = "white" if level < 0.4 else "black"
        drawn.paste(border, (0, 0, *drawn.size), edge.filter(ImageFilter.MaxFilter(3)))
        drawn.paste((red, green, blue), (0, 0, *drawn.size), edge)
    return drawn


def edge_of(inside: Image.Image, width: int) -> Image.Image:
    """Return the pixels of a line around a mask, inside it, both in L with 0 and 255.

    The line follows the edge of the picture too, where the mask reaches it.
    """
    padded = Image.new("L", (inside.width + 2 * width, inside.height + 2 * width), 0)
    padded.paste(inside, (width, width))
    inner = padded.filter(ImageFilter.MinFilter(width))
    return ImageChops.subtract(inside, inner.crop((width, width, width + inside.width, width + inside.height)))
