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

_IMAGE_SUFFIXES = frozenset(Image.registered_extensions())


def looks_like_an_image(name: str) -> bool:
    """Whether a file name ends as an image's does."""
    return Path(name).suffix.lower() in _IMAGE_SUFFIXES


def open_image(image: ImageLike) -> Image.Image:
    """The picture in RGB, upright (EXIF rotation applied).

    Raises:
        PairError: if it can't be read; says what came and what to do.
    """
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, np.ndarray):
        opened = Image.fromarray(_to_uint8(image))
    elif isinstance(image, str | Path | bytes):
        opened = _read(image)
    else:
        raise PairError(f"an image must be a path, bytes, a PIL image or an array, got {type(image).__name__}")
    return ImageOps.exif_transpose(opened).convert("RGB")


def _read(image: str | Path | bytes) -> Image.Image:
    name = "the image's bytes" if isinstance(image, bytes) else f"the image {str(image)!r}"
    try:
        opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image)
        opened.load()
    except FileNotFoundError:
        raise PairError(f"{name} does not exist") from None
    except UnidentifiedImageError:
        raise PairError(f"{name} could not be read as an image of a known format") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise PairError(f"{name} could not be read: {error}") from None
    return opened


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
