"""Pictures that are stored turned or mirrored, with a note in their EXIF data, and annotations of them.

Legend: H x W pixels.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from m2ib_lightning.errors import M2IBError, PairError

_SAME_SHAPE = 0.02
"""Largest relative difference in the ratio of width to height at which two sizes are those of one picture."""

_TRANSPOSE = Image.Transpose
_TURNS = {
    2: _TRANSPOSE.FLIP_LEFT_RIGHT,
    3: _TRANSPOSE.ROTATE_180,
    4: _TRANSPOSE.FLIP_TOP_BOTTOM,
    5: _TRANSPOSE.TRANSPOSE,
    6: _TRANSPOSE.ROTATE_270,
    7: _TRANSPOSE.TRANSVERSE,
    8: _TRANSPOSE.ROTATE_90,
}
"""What makes a stored picture the shown one, by the orientation in its EXIF data."""

_SWAPS_SIDES = (_TRANSPOSE.TRANSPOSE, _TRANSPOSE.ROTATE_270, _TRANSPOSE.TRANSVERSE, _TRANSPOSE.ROTATE_90)

Turn = Image.Transpose
"""What makes a stored picture the shown one."""

Size = tuple[int, int]


def turn_of(picture: Image.Image) -> Turn | None:
    """Return what makes an opened image the shown one; None for an image that is shown as it is stored."""
    return _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))


def check_annotated_as(value: str | None) -> None:
    """Check a value of ``data.annotated_as``.

    Raises:
        M2IBError: if there is no such value.
    """
    if value not in (None, "shown", "stored"):
        raise M2IBError(f"data.annotated_as must be shown, stored, or null, got {value!r}")


def is_of_stored(annotated: Size | None, shown: Size, turn: Turn | None, rule: str | None = None) -> bool:
    """Return whether an annotation is of the stored picture, not of the shown one.

    The size of the annotated picture tells, if the rotation swaps the sides. Otherwise it is the shown one.

    Args:
        annotated: (width, height) of the picture that was annotated, or of a copy of it; None if unknown.
        shown: (width, height) of the shown picture.
        turn: what makes the stored picture the shown one.
        rule: ``stored`` or ``shown``, the user's word for all pictures; None to go by the size.

    >>> is_of_stored((120, 60), (60, 120), Turn.ROTATE_90), is_of_stored((120, 60), (120, 60), Turn.ROTATE_180)
    (True, False)
    """
    if turn is None or rule is not None or annotated is None:
        return turn is not None and rule == "stored"
    return _difference(annotated, stored_size(shown, turn)) + 1e-9 < _difference(annotated, shown)


def stored_size(shown: Size, turn: Turn | None) -> Size:
    """Return (width, height) of the stored picture from that of the shown one."""
    return shown[::-1] if turn in _SWAPS_SIDES else shown


def check_shape(annotated: Size, picture: Size) -> None:
    """Check that a picture can be a smaller or larger copy of the one that was annotated.

    Raises:
        PairError: if it has another ratio of width to height.
    """
    if math.expm1(_difference(annotated, picture)) > _SAME_SHAPE:
        raise PairError(
            f"the annotation is of a picture of {annotated[0]} x {annotated[1]} pixels, and the picture has "
            f"{picture[0]} x {picture[1]}: give the picture that was annotated, or a copy of another size"
        )


def turned(mask: NDArray[np.bool_], turn: Turn) -> NDArray[np.bool_]:
    """Return the mask of the shown picture from a mask (H, W) of the stored one."""
    return np.asarray(Image.fromarray(mask).transpose(turn))


def _difference(one: Size, other: Size) -> float:
    """The absolute difference of the logarithms of width to height."""
    return abs(math.log(one[0] * other[1] / (one[1] * other[0])))
