"""Read images of any kind: files, bytes, PIL images and arrays."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.time_limit import within

ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A path, bytes, a PIL image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 or of floats in [0, 1]."""

TIMEOUT = 60.0
"""Default time limit in seconds for reading one image."""

_NOT_PICTURES = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".h5", ".hdf", ".emf", ".wmf", ".grib", ".bufr"}
_IMAGE_SUFFIXES = frozenset(Image.registered_extensions()) - _NOT_PICTURES


def looks_like_an_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return Path(name).suffix.lower() in _IMAGE_SUFFIXES


class Reading(NamedTuple):
    """The result of reading an image.

    Attributes:
        picture: first frame in RGB, with EXIF rotation applied and transparency on white.
        animated: whether the image has more than one frame or page.
    """

    picture: Image.Image
    animated: bool


def read_image(image: ImageLike, timeout: float = TIMEOUT) -> Reading:
    """Read an image, in any mode that Pillow knows.

    Grey images of more than 8 bits (16-bit PNG or TIFF, float TIFF) are scaled linearly, so that their darkest and
    brightest pixels become 0 and 255. For another range, convert the image to 8 bits first.

    Args:
        image: path, bytes, PIL image or array.
        timeout: time limit in seconds.

    Raises:
        PairError: if the image can't be read; the message says what came and what to do.
    """
    name = f"the image {str(image)!r}" if isinstance(image, str | Path) else "the image"
    try:
        return within(timeout, lambda: _read(image, name))
    except PairError:
        raise
    except FileNotFoundError:
        url = (
            " (images at URLs are only downloaded with data.allow_urls=true; else give files)"
            if "://" in str(image)[:12]
            else ""
        )
        raise PairError(f"{name} does not exist{url}") from None
    except PermissionError:
        raise PairError(f"{name} may not be read: permission denied") from None
    except UnidentifiedImageError:
        raise PairError(f"{name} could not be read as an image of a known format") from None
    except Image.DecompressionBombError as error:
        raise PairError(f"{name} is too large: {error}. Make a smaller copy of it") from None
    except TimeoutError:
        raise PairError(f"{name} was still being read after {timeout:g} s (data.image_timeout)") from None
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error, ...
        raise PairError(f"{name} could not be read: {type(error).__name__}: {error}") from None


def _read(image: ImageLike, name: str) -> Reading:
    opened = _open(image)
    if 0 in opened.size:
        raise PairError(f"{name} has no pixels: its size is {opened.size}")
    picture = _to_rgb(ImageOps.exif_transpose(opened))
    return Reading(picture, opened.format != "MPO" and _is_animated(opened))  # an MPO is a photo and its preview


def _is_animated(opened: Image.Image) -> bool:
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # `is_animated` reads on in the file, which may be broken after the first frame
        return False


def _open(image: ImageLike) -> Image.Image:
    if isinstance(image, np.ndarray):
        return Image.fromarray(_to_uint8(image))
    if isinstance(image, Image.Image):
        opened = image
    elif isinstance(image, bytes):
        opened = Image.open(io.BytesIO(image))
    elif isinstance(image, str | Path):
        opened = Image.open(_regular(Path(image).expanduser()))
    else:
        raise PairError(f"an image must be a path, bytes, a PIL image or an array, got {type(image).__name__}")
    opened.load()
    return opened


def _regular(path: Path) -> Path:
    """Refuse directories, pipes and devices; opening a pipe would block forever."""
    if path.is_dir():
        raise PairError(f"the image {str(path)!r} is a directory; give the file")
    if path.exists() and not path.is_file():
        raise PairError(f"the image {str(path)!r} is a pipe or a device, not a file")
    return path


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
