"""Bound the memory of a picture before its pixels are loaded: reduce it while it is decoded, or refuse it."""

from __future__ import annotations

from PIL import ImageFile, JpegImagePlugin, TiffImagePlugin

from m2ib_lightning.errors import PairError

_BYTES_PER_PIXEL = 4
"""Memory of a pixel: Pillow keeps RGB in four bytes."""

_BYTES_PER_PIXEL_OF_JPEG2000 = 16
"""The same while a JPEG 2000 picture is decoded: its decoder keeps every channel in four bytes."""

_COEFFICIENT_BYTES = 6
"""Memory of a pixel of a progressive JPEG while it is decoded, at the size of the file."""

_TILE_SIZE = (322, 323)
"""TIFF tags of the width and the height of a tile."""


def reduce(opened: ImageFile.ImageFile, name: str, max_bytes: int) -> None:
    """Let an image file that is too large be loaded at half its size, a quarter, and so on.

    Args:
        opened: an image file whose pixels are not loaded.
        name: name of the image, for the error message.
        max_bytes: size of the largest picture that is decoded, in bytes of its pixels.

    Raises:
        PairError: if the format can't be loaded at a reduced size, or the decoder needs too much memory all the same.
    """
    width, height = opened.size
    each = _BYTES_PER_PIXEL_OF_JPEG2000 if opened.format == "JPEG2000" else _BYTES_PER_PIXEL
    power = 0
    if opened.format == "JPEG2000" or isinstance(opened, JpegImagePlugin.JpegImageFile):
        while power < 3 and each * _pixels(width, height, power) > max_bytes:
            power += 1
    needed = each * _pixels(width, height, power)
    if power and opened.format == "JPEG2000":
        opened.reduce = power  # type: ignore[method-assign, assignment]  # a property of JPEG 2000 files
    elif power:
        opened.draft(None, (max(1, width // 2**power), max(1, height // 2**power)))
        needed = each * opened.width * opened.height
    if isinstance(opened, JpegImagePlugin.JpegImageFile) and opened.info.get("progressive"):
        needed = max(needed, width * height * _COEFFICIENT_BYTES)
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        tile = [opened.tag_v2.get(tag, 0) for tag in _TILE_SIZE]
        needed = max(needed, int(tile[0]) * int(tile[1]) * _BYTES_PER_PIXEL)
    if needed > max_bytes:
        raise PairError(
            f"{name} is too large: its {width:,} x {height:,} pixels take {needed:,} bytes, and the limit is "
            f"{max_bytes:,} (data.image_max_bytes). Make a smaller copy of it, or raise the limit"
        )


def _pixels(width: int, height: int, power: int) -> int:
    return -(-width // 2**power) * -(-height // 2**power)
