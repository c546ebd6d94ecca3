"""Labelled shapes of annotation tools, and those that a caption is about.

Legend: H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.annotations.coordinates import Size, checked_points, mask_of_polygon
from m2ib_lightning.pairs.annotations.named_labels import LabelFinder
from m2ib_lightning.pairs.truth import Mask, RawTruth

Points = Sequence[Sequence[float]]

_CORNERS = 72
"""Number of corners of the polygon that stands for an ellipse."""


@dataclass(frozen=True)
class Shape:
    """A labelled shape.

    Attributes:
        label: its label.
        outline: function that returns the corners (x, y) in pixels; raises ``PairError`` for a shape without an area.
        place: name of the shape, for error messages.
    """

    label: str
    outline: Callable[[], Points]
    place: str


def truth_of(shapes: Sequence[Shape], size: Size) -> RawTruth | None:
    """Return the ground truth whose mask is the union of some shapes; None for no shapes."""
    if not shapes:
        return None
    labels = {shape.label for shape in shapes}
    label = labels.pop() if len(labels) == 1 else None
    return RawTruth(mask=partial(draw_shapes, list(shapes), size), label=label, size=size)


def truth_of_caption(caption: object, shapes: Sequence[Shape], size: Size) -> RawTruth | None:
    """Return the ground truth of a caption about a whole picture.

    It is the union of the shapes whose label the caption names. If it names none, it is that of all shapes where all
    have one label, and unknown otherwise.
    """
    if not isinstance(caption, str):
        return None
    named = LabelFinder(shape.label for shape in shapes).find(caption)
    if named:
        return truth_of([shape for shape in shapes if shape.label in named], size)
    return truth_of(shapes, size) if len({shape.label for shape in shapes}) == 1 else None


def draw_shapes(shapes: Sequence[Shape], size: Size) -> Mask:
    """Return the mask (H, W) of the union of some shapes.

    Raises:
        PairError: if a shape can't be drawn.
    """
    union = np.zeros(size[::-1], np.bool_)
    for shape in shapes:
        try:
            union |= mask_of_polygon(checked_points(shape.outline(), size), size)
        except PairError as error:
            raise PairError(f"{shape.place}: {error}") from None
    return union


def rectangle(left: float, top: float, width: float, height: float, rotation: float = 0.0) -> Points:
    """Return the corners of a rectangle, rotated clockwise around its upper left corner by an angle in degrees.

    Raises:
        PairError: if it is empty.
    """
    if not (width > 0 and height > 0):
        raise PairError(f"the rectangle of {width:g} x {height:g} is empty: its width and height must be above 0")
    cosine, sine = math.cos(math.radians(rotation)), math.sin(math.radians(rotation))
    return [
        [left + x * cosine - y * sine, top + x * sine + y * cosine]
        for x, y in ((0.0, 0.0), (width, 0.0), (width, height), (0.0, height))
    ]


def ellipse(x: float, y: float, x_radius: float, y_radius: float, rotation: float = 0.0) -> Points:
    """Return corners of an ellipse, rotated clockwise around its middle by an angle in degrees.

    Raises:
        PairError: if it is empty.
    """
    if not (x_radius > 0 and y_radius > 0):
        raise PairError("the ellipse is empty: its radii must be above 0")
    turn, points = math.radians(rotation), []
    for angle in np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False).tolist():
        across, down = x_radius * math.cos(angle), y_radius * math.sin(angle)
        right = x + across * math.cos(turn) - down * math.sin(turn)
        points.append([right, y + across * math.sin(turn) + down * math.cos(turn)])
    return points
