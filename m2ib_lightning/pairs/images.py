"""Read images of any kind: files, bytes, PIL images and arrays."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from m2ib_lightning.errors import PairError, quoted
from m2ib_lightning.pairs.dicom import HEAD, SUFFIXES, is_dicom, read_dicom
from m2ib_lightning.pairs.embedded import embedded_picture
from m2ib_lightning.pairs.exif import Turn, turn_of
from m2ib_lightning.pairs.image_rules import FORMATS, ImageRules, starts_programs
from m2ib_lightning.pairs.reduced_loading import reduce
from m2ib_lightning.pairs.time_limit import within
from m2ib_lightning.pairs.windows import Window, limits_of, stretch

ImageLike = str | Path | bytes | Image.Image | NDArray[Any]
"""A path, a picture as text (base64, or a ``data:`` URI), bytes, a PIL image, or an array (H, W), (H, W, 3) or
(H, W, 4) of uint8 or of floats in [0, 1].
"""

_SINGLE_FRAME = ("JPEG", "PNG", "BMP", "JPEG2000", "PPM")
"""Formats whose pixels stay as they are when the number of frames is counted."""

_STRIP_PIXELS = 2**22
"""Number of pixels that are converted at once; conversions need several times their memory."""

_MAX_REASON = 200
"""Largest number of characters of a decoder's own message."""

_NOT_PICTURES = {".pdf", ".ps", ".eps", ".mpg", ".mpeg", ".h5", ".hdf", ".emf", ".wmf", ".grib", ".bufr"}
_IMAGE_SUFFIXES = (frozenset(Image.registered_extensions()) | SUFFIXES) - _NOT_PICTURES


def looks_like_an_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image."""
    return Path(name).suffix.lower() in _IMAGE_SUFFIXES


class Reading(NamedTuple):
    """The result of reading an image.

    Attributes:
        picture: first frame in RGB, with EXIF rotation applied and transparency on white.
        animated: whether the image has more than one frame or page.
        size: (width, height) of the image after EXIF rotation; the picture's own size is smaller if the image was
            loaded at a reduced size.
        turn: the EXIF rotation that was applied, or None.
    """

    picture: Image.Image
    animated: bool
    size: tuple[int, int]
    turn: Turn | None = None

    def box_in_image(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        """Return a box of the picture in pixels of the image."""
        if self.size == self.picture.size:
            return box
        x_scale, y_scale = self.size[0] / self.picture.width, self.size[1] / self.picture.height
        left, top, right, bottom = box
        return round(left * x_scale), round(top * y_scale), round(right * x_scale), round(bottom * y_scale)


def read_image(image: ImageLike, rules: ImageRules | None = None) -> Reading:
    """Read an image, in any mode that Pillow knows and in the formats that the rules permit.

    Grey images of more than 8 bits (16-bit PNG or TIFF, float TIFF) are scaled linearly by a window of grey values:
    ``rules.window``, or from the 0.5th to the 99.5th percentile of their pixels. DICOM files need pydicom
    (``pairs.dicom``). JPEG and JPEG 2000 images above ``rules.max_bytes`` are loaded at a reduced size.

    Args:
        image: path, picture as text, bytes, PIL image or array.
        rules: formats, size and time limit; None for the defaults.

    Raises:
        PairError: if the image can't be read; the message says what came and what to do.
    """
    rules = rules or ImageRules()
    name = f"the image {quoted(str(image))}" if isinstance(image, str | Path) else "the image"
    try:
        return within(rules.timeout, lambda: _read(image, name, rules))
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
        more = ", ".join((*FORMATS, "DICOM", *rules.formats))
        raise PairError(
            f"{name} could not be read as an image of a known format: {more} are read, others with data.image_formats"
        ) from None
    except Image.DecompressionBombError as error:
        raise PairError(f"{name} is too large: {error}. Make a smaller copy of it") from None
    except TimeoutError:
        raise PairError(f"{name} was still being read after {rules.timeout:g} s (data.image_timeout)") from None
    except Exception as error:  # decoders raise anything: SyntaxError, struct.error, ...
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise PairError(f"{name} could not be read: {type(error).__name__}: {reason[:_MAX_REASON]}") from None


def _read(image: ImageLike, name: str, rules: ImageRules) -> Reading:
    if isinstance(image, str):
        content = embedded_picture(image)
        image = Path(image) if content is None else content
    dicom = _open_dicom(image)
    if dicom is not None:
        with dicom:
            picture, has_more = read_dicom(dicom, name, rules)
        return Reading(picture, has_more, picture.size)
    opened = _open(image, rules)
    size = opened.size
    own = opened is not image
    if own and isinstance(opened, ImageFile.ImageFile):
        reduce(opened, name, rules.max_bytes)
    turn = turn_of(opened)  # a TIFF forgets it when its pixels are loaded
    opened.load()
    loaded = opened.size
    if 0 in loaded:
        raise PairError(f"{name} has no pixels: its size is {loaded}")
    if own and opened.format in _SINGLE_FRAME:
        ImageOps.exif_transpose(opened, in_place=True)  # without a copy
        upright = opened
    else:
        upright = ImageOps.exif_transpose(opened)
    if upright.size != loaded:
        size = size[::-1]
    # an MPO is a photo and its preview
    has_more = opened.format != "MPO" and _is_animated(opened)
    return Reading(_to_rgb(upright, rules.grey_window or "auto"), has_more, size, turn)


def _is_animated(opened: Image.Image) -> bool:
    try:
        return bool(getattr(opened, "is_animated", False))
    except Exception:  # `is_animated` reads on in the file, which may be broken after the first frame
        return False


def _open(image: ImageLike, rules: ImageRules) -> Image.Image:
    """Open an image; the pixels of a file are not loaded yet."""
    if isinstance(image, np.ndarray):
        return Image.fromarray(_to_uint8(image))
    if isinstance(image, Image.Image):
        if isinstance(image, ImageFile.ImageFile) and starts_programs(image.format):
            raise PairError(f"the image is {image.format}, which is never read, because it can start other programs")
        return image
    if isinstance(image, bytes):
        return Image.open(io.BytesIO(image), formats=rules.permitted)
    if isinstance(image, Path):
        return Image.open(_regular(image.expanduser()), formats=rules.permitted)
    raise PairError(f"an image must be a path, bytes, a PIL image or an array, got {type(image).__name__}")


def _open_dicom(image: ImageLike) -> BinaryIO | None:
    """Open a DICOM file, or bytes of one; None for everything else."""
    if isinstance(image, bytes):
        return io.BytesIO(image) if is_dicom(image[:HEAD]) else None
    if not isinstance(image, Path):
        return None
    file = _regular(image.expanduser()).open("rb")
    if is_dicom(file.read(HEAD), image.suffix):
        file.seek(0)
        return file
    file.close()
    return None


def _regular(path: Path) -> Path:
    """Refuse directories, pipes and devices; opening a pipe would block forever."""
    if path.is_dir():
        raise PairError(f"the image {quoted(str(path))} is a directory; give the file")
    if path.exists() and not path.is_file():
        raise PairError(f"the image {quoted(str(path))} is a pipe or a device, not a file")
    return path


def _to_rgb(picture: Image.Image, window: Window) -> Image.Image:
    if picture.mode.startswith(("I", "F")):
        return Image.fromarray(_scaled_grey(np.asarray(picture), window)).convert("RGB")
    if picture.has_transparency_data:
        return _by_strips(picture, _on_white)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _scaled_grey(grey: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Grey values (H, W), scaled linearly to 0 to 255 by a window."""
    scaled = np.empty(grey.shape, np.uint8)
    strips = _strips(grey.shape[1], grey.shape[0])
    if not all(np.isfinite(grey[first:last]).all() for first, last in strips):
        raise PairError("the image holds pixels that are not finite")
    limits = limits_of(grey, window)
    for first, last in strips:
        scaled[first:last] = stretch(grey[first:last], limits)
    return scaled


def _on_white(picture: Image.Image) -> Image.Image:
    layered = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def _by_strips(picture: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Convert a picture to RGB, strip by strip."""
    whole = Image.new("RGB", picture.size)
    for first, last in _strips(*picture.size):
        whole.paste(convert(picture.crop((0, first, picture.width, last))), (0, first))
    return whole


def _strips(width: int, height: int) -> list[tuple[int, int]]:
    """The first and last row of each strip."""
    rows = max(1, _STRIP_PIXELS // width)
    return [(first, min(first + rows, height)) for first in range(0, height, rows)]


def _to_uint8(array: NDArray[Any]) -> NDArray[np.uint8]:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise PairError(f"an image array must be (H, W), (H, W, 3) or (H, W, 4), got shape {array.shape}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating) or not ((array >= 0) & (array <= 1)).all():
        raise PairError(f"an image array must be uint8, or floats in [0, 1], got {array.dtype}")
    return (array * 255).round().astype(np.uint8)
