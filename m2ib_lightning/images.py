"""Opening images as people have them, and knowing which part of them the model saw."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from m2ib_lightning.errors import PairError

ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A file, the bytes of one, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of floats in [0, 1]."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels."""

_NOT_PICTURES = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".h5", ".hdf", ".emf", ".wmf", ".grib", ".bufr"}
_IMAGE_SUFFIXES = frozenset(Image.registered_extensions()) - _NOT_PICTURES


def looks_like_an_image(name: str) -> bool:
    """Whether a file name ends as an image's does."""
    return Path(name).suffix.lower() in _IMAGE_SUFFIXES


def open_image(image: ImageLike) -> Image.Image:
    """The picture in RGB, upright (EXIF rotation applied), transparency laid on white.

    Grey of more than 8 bits (16-bit PNG or TIFF, float TIFF) is scaled linearly from its own darkest and brightest
    pixel to 0 and 255; for another window, make the 8-bit picture yourself.

    Raises:
        PairError: if it can't be read; says what came and what to do.
    """
    name = f"the image {str(image)!r}" if isinstance(image, str | Path) else "the image"
    try:
        opened = _open(image)
        if 0 in opened.size:
            raise PairError(f"{name} has no pixels: its size is {opened.size}")
        return _to_rgb(ImageOps.exif_transpose(opened))
    except PairError:
        raise
    except FileNotFoundError:
        url = " (images at URLs are not downloaded: fetch them and give paths)" if "://" in str(image)[:12] else ""
        raise PairError(f"{name} does not exist{url}") from None
    except UnidentifiedImageError:
        raise PairError(f"{name} could not be read as an image of a known format") from None
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error, DecompressionBombError, ...
        raise PairError(f"{name} could not be read: {type(error).__name__}: {error}") from None


def _open(image: ImageLike) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(_to_uint8(image))
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, bytes):
        opened = Image.open(io.BytesIO(image))
    elif isinstance(image, str | Path):
        opened = Image.open(Path(image).expanduser())
    else:
        raise PairError(f"an image must be a path, bytes, a PIL image or an array, got {type(image).__name__}")
    opened.load()
    return opened


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        grey = np.asarray(picture, np.float64)
        if not np.isfinite(grey).all():
            raise PairError("the image holds pixels that are not finite")
        span = grey.max() - grey.min()
        return Image.fromarray(((grey - grey.min()) / (span or 1) * 255).round().astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layered = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
    return picture.convert("RGB")


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise PairError(f"an image array must be (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not ((array >= 0) & (array <= 1)).all():
        raise PairError(f"an image array must be uint8, or floats in [0, 1], got {array.dtype}")
    return (array * 255).round().astype(np.uint8)


def seen_box(image_processor: Any, width: int, height: int) -> Box:
    """What the model sees of a picture, in the picture's own pixels: CLIP resizes the short side, then cuts the centre.

    Args:
        image_processor: a Hugging Face image processor.
        width: of the picture.
        height: of the picture.
    """
    if not getattr(image_processor, "do_center_crop", False):
        return (0, 0, width, height)
    scaled_width, scaled_height = _resized(image_processor, width, height)
    crop: Mapping[str, int] = image_processor.crop_size
    left, right = _centre(scaled_width, crop["width"], width)
    top, bottom = _centre(scaled_height, crop["height"], height)
    return (left, top, right, bottom)


def _resized(image_processor: Any, width: int, height: int) -> tuple[int, int]:
    size: Mapping[str, int] = image_processor.size
    if not image_processor.do_resize:
        return width, height
    if "shortest_edge" not in size:
        return size["width"], size["height"]
    short, long = sorted((width, height))
    longest = int(size["shortest_edge"] * long / short)
    return (size["shortest_edge"], longest) if width <= height else (longest, size["shortest_edge"])


def _centre(scaled: int, crop: int, original: int) -> tuple[int, int]:
    """The crop along one axis, from scaled to original pixels; at least one pixel."""
    start = max(0, (scaled - crop) // 2)
    low = round(start * original / scaled)
    high = round(min(scaled, start + crop) * original / scaled)
    return low, max(high, low + 1)
