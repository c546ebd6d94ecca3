"""Paint a scene: a noisy background, one to four rimmed shapes, and the mask of each shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from m2ib_lightning.scenes.objects import Attributes, Place, lay_out, sample_attributes
from m2ib_lightning.scenes.vocabulary import COLOURS, SHAPES

CANVAS = 64  # pixels
GRID = 8  # pixels: the patch grid that centres snap to

_OVERSAMPLING = 8
_RIM = 1.5  # pixels
_RIM_GREY = 20.0
_PALETTE = np.array(list(COLOURS.values()), np.float32)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Difficulty:
    """Difficulty of a scene.

    Attributes:
        objects: smallest and largest number of objects.
        jitter: largest jitter of a centre along each axis, in pixels.
        rotation: largest rotation of an object, in degrees.
    """

    objects: tuple[int, int] = (2, 4)
    jitter: int = 2
    rotation: int = 5


@dataclass(frozen=True)
class Scene:
    """A picture and its ground truth.

    Attributes:
        image: picture (64, 64, 3), uint8.
        objects: the objects, in random order.
        masks: masks (objects, 64, 64), float32; each value is the share of the pixel that the object covers.
    """

    image: NDArray[np.uint8]
    objects: list[Attributes]
    masks: Floats


def paint_scene(rng: np.random.Generator, difficulty: Difficulty | None = None) -> Scene:
    """Paint a random scene; ``difficulty`` is ``Difficulty()`` by default."""
    difficulty = difficulty or Difficulty()
    low, high = difficulty.objects
    count = int(rng.integers(low, high + 1))
    places = None
    while places is None:
        objects = sorted(sample_attributes(rng, count), key=lambda obj: -obj.size)
        places = lay_out(rng, objects, CANVAS, GRID, difficulty.jitter)
    image = noisy_background(rng)
    masks = np.zeros((count, CANVAS, CANVAS), np.float32)
    for obj, place, mask in zip(objects, places, masks, strict=True):
        mask[:] = paint_object(rng, image, obj, place, random_degrees(rng, difficulty.rotation))
    order = rng.permutation(count)
    return Scene(np.clip(image, 0, 255).astype(np.uint8), [objects[k] for k in order], masks[order])


def random_degrees(rng: np.random.Generator, rotation: int) -> int:
    """Return a random rotation: by ``rotation`` degrees to either side, or none."""
    return int(rng.integers(-1, 2)) * rotation


def paint_object(rng: np.random.Generator, image: Floats, obj: Attributes, place: Place, degrees: int) -> Floats:
    """Paint an object over a picture (64, 64, 3), in place.

    Returns:
        Mask (64, 64), as ``coverage`` returns it.
    """
    pixels, whole, inner = _stamped(obj, place, degrees)
    colour = _PALETTE[obj.colour] + rng.normal(0, 10, 3)
    texture = rng.normal(0, 8, (*whole.shape, 1))
    region = image[pixels]
    region *= 1 - whole[..., None]
    region += (_RIM_GREY * (whole - inner)[..., None] + (colour + texture) * inner[..., None]).astype(np.float32)
    return coverage(obj, place, degrees)


def coverage(obj: Attributes, place: Place, degrees: int) -> Floats:
    """Return the share (64, 64) of each pixel that an object covers, rim included, wherever it is visible."""
    mask = np.zeros((CANVAS, CANVAS), np.float32)
    pixels, whole, _ = _stamped(obj, place, degrees)
    mask[pixels] = whole
    return mask


def _stamped(obj: Attributes, place: Place, degrees: int) -> tuple[tuple[slice, slice], Floats, Floats]:
    """Return the pixels of an object within the picture, and its coverage of them with and without the rim."""
    whole, inner = _stamp(SHAPES[obj.shape], place.radius, degrees)
    size = whole.shape[0]
    x_start, y_start = (math.floor(centre - size / 2 + 0.5) for centre in (place.x, place.y))
    left, top = max(x_start, 0), max(y_start, 0)
    right, bottom = min(x_start + size, CANVAS), min(y_start + size, CANVAS)
    window = np.s_[top - y_start : bottom - y_start, left - x_start : right - x_start]
    return np.s_[top:bottom, left:right], whole[window], inner[window]


@cache
def _stamp(shape: str, radius: int, degrees: int) -> tuple[Floats, Floats]:
    """Coverage in [0, 1] of the anti-aliased shape, with and without its dark rim."""
    size = 2 * radius + 3
    big = Image.new("L", (size * _OVERSAMPLING,) * 2, 0)
    _draw_shape(ImageDraw.Draw(big), shape, size * _OVERSAMPLING / 2, radius * _OVERSAMPLING, math.radians(degrees))
    inner = big
    kernel = round(_RIM * _OVERSAMPLING / 4) * 2 + 1
    for _ in range(2):
        inner = inner.filter(ImageFilter.MinFilter(kernel))
    whole_small, inner_small = (
        np.asarray(layer.resize((size, size), Image.Resampling.BOX), np.float32) / np.float32(255)
        for layer in (big, inner)
    )
    return whole_small, inner_small


def _draw_shape(draw: ImageDraw.ImageDraw, shape: str, centre: float, radius: float, angle: float) -> None:
    if shape in ("circle", "ring"):
        outer, hole = radius * (0.92 if shape == "circle" else 0.95), radius * 0.52
        draw.ellipse([centre - outer, centre - outer, centre + outer, centre + outer], fill=255)
        if shape == "ring":
            draw.ellipse([centre - hole, centre - hole, centre + hole, centre + hole], fill=0)
        return
    half = radius * 0.78
    corners = {
        "square": [(-half, -half), (half, -half), (half, half), (-half, half)],
        "triangle": _polar([radius] * 3),
        "star": _polar([radius, radius * 0.42] * 5),
    }[shape]
    cos, sin = math.cos(angle), math.sin(angle)
    draw.polygon([(centre + x * cos - y * sin, centre + x * sin + y * cos) for x, y in corners], fill=255)


def _polar(radii: list[float]) -> list[tuple[float, float]]:
    """Corners at equal angles, the first one at the top."""
    turns = [2 * math.pi * k / len(radii) for k in range(len(radii))]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in zip(radii, turns, strict=True)]


def noisy_background(rng: np.random.Generator) -> Floats:
    """A grey-ish tint, low-frequency clouds, and noise per pixel and per channel."""
    tint = rng.uniform(70, 190) + rng.uniform(-18, 18, 3)
    knots = rng.normal(0, 16, (5, 5, 1)) + rng.normal(0, 7, (5, 5, 3))
    interpolate = _interpolation(CANVAS, 5)
    clouds = np.einsum("yi,xj,ijc->yxc", interpolate, interpolate, knots, optimize=True)
    noise = rng.standard_normal((CANVAS, CANVAS, 4), dtype=np.float32)
    return (tint + clouds).astype(np.float32) + 6 * noise[..., :3] + 9 * noise[..., 3:]


@cache
def _interpolation(points: int, knots: int) -> NDArray[np.float64]:
    """Weights (points, knots) of linear interpolation between equally spaced knots."""
    position = np.linspace(0, knots - 1 - 1e-6, points)
    left = position.astype(int)
    weights = np.zeros((points, knots))
    weights[np.arange(points), left] = 1 - (position - left)
    weights[np.arange(points), left + 1] = position - left
    return weights
