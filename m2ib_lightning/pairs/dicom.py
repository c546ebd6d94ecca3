"""Read DICOM files: one frame as an RGB picture. Only the tags below are read, and no message quotes a text of one."""

from __future__ import annotations

import os
import re
import warnings
from functools import cache
from struct import unpack
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.dicom_grey import eight_bits, grey_levels, palette_colours
from m2ib_lightning.pairs.dicom_syntaxes import check_frame, check_syntax, decoder_advice, syntax_of
from m2ib_lightning.pairs.image_rules import ImageRules

HEAD = 132
"""Number of first bytes that tell a DICOM file: a preamble of 128, and ``DICM``."""

SUFFIXES = frozenset({".dcm", ".dicom"})
"""Suffixes of DICOM files, which may lack the preamble."""

_FIRST_GROUPS = (b"\x02\0", b"\x08\0", b"\0\x08")
"""First bytes of DICOM files without a preamble, in either byte order."""

_FIRST_ELEMENT = re.compile(
    rb"\x02\0(?:\0\0UL|\x01\0OB|[\x02\x03\x10]\0UI)"
    rb"|\x08\0[\0\x01\x05\x08\x12-\x18]\0(?:[A-Z]{2}|[\x02-\x80]\0\0\0)",
)
"""The first element of a data set without a preamble: a tag, and its value representation or a short length."""

_PIXEL_TAGS = (0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011, *range(0x00280100, 0x00280104))
_GREY_TAGS = (0x00280120, 0x00280121, *range(0x00281050, 0x00281054), 0x00281056, 0x00283000, 0x00283010)
_PALETTE_TAGS = (*range(0x00281101, 0x00281104), *range(0x00281201, 0x00281204))
_OFFSET_TAGS = (0x7FE00001, 0x7FE00002)
_TAGS = [*_PIXEL_TAGS, *_GREY_TAGS, *_PALETTE_TAGS, *_OFFSET_TAGS]
"""Tags that are read: shape and meaning of the pixels, rescale and windows, palette, places of frames.

None is about the patient.
"""

_PIXEL_GROUP, _PIXEL_DATA = 0x7FE0, 0x0010
_FLOAT_PIXELS = (0x0008, 0x0009)

_BYTES_PER_PIXEL = 4
"""Memory of a pixel of the picture in RGB."""

_GREY, _PALETTE = ("MONOCHROME1", "MONOCHROME2"), "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")


def is_dicom(head: bytes, suffix: str = "") -> bool:
    r"""Return whether a file is DICOM, by its first ``HEAD`` bytes and its suffix.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"\x08\0", ".DCM"), is_dicom(bytes(132))
    (True, True, False)
    >>> is_dicom(b"\x08\0\x05\0CS\n\0ISO_IR 100")
    True
    """
    if head[128:HEAD] == b"DICM" or _FIRST_ELEMENT.match(head) is not None:
        return True
    return suffix.lower() in SUFFIXES and head[:2] in _FIRST_GROUPS


def read_dicom(file: BinaryIO, name: str, rules: ImageRules) -> tuple[Image.Image, bool]:
    """Read the first frame of a DICOM file.

    Grey values go through the modality LUT or rescale, then through the window (``rules.window``; None for the file's
    own, else ``auto`` for more than 8 bits). MONOCHROME1 is inverted.

    Args:
        file: the file, open for reading.
        name: name of the image, for error messages.
        rules: window and size limit.

    Returns:
        The frame in RGB, and whether there are more.

    Raises:
        PairError: if pydicom or a decoder is missing, the file holds no picture, is too large, or is broken.
    """
    _import_pydicom(name)
    step, advice = "its header", ""
    try:
        syntax = syntax_of(file)
        check_syntax(syntax, name)
        header = _read_header(file, syntax)
        representation = _check_pixels(header, file, syntax, name, rules.max_bytes)
        step, advice = f"its pixels ({syntax.name})", decoder_advice(syntax)
        stored = _decode(header, file, syntax, representation)
        step, advice = "its grey values or its palette", ""
        return Image.fromarray(_colours(stored, header, rules, syntax)).convert("RGB"), _frames(header) > 1
    except (PairError, MemoryError):
        raise
    except Exception as error:  # messages of pydicom and of decoders may quote texts of the file
        kind = type(error).__name__
        raise PairError(f"{name} is a DICOM file, and {step} could not be read ({kind}){advice}") from None


@cache
def _silence_pydicom() -> None:
    """Hide pydicom's warnings, which may quote texts of a file."""
    warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")


def _import_pydicom(name: str) -> None:
    try:
        import pydicom.pixels  # noqa: F401  # an optional package
    except ImportError:
        raise PairError(f"{name} is a DICOM file, which needs pydicom: pip install 'm2ib_lightning[medical]'") from None
    _silence_pydicom()


def _read_header(file: BinaryIO, syntax: Any) -> Any:
    """Read the tags that are needed, and leave the file at the element with the pixels, or at its end."""
    from pydicom.filereader import read_dataset

    return read_dataset(
        file,
        is_implicit_VR=syntax.is_implicit_VR,
        is_little_endian=syntax.is_little_endian,
        stop_when=lambda tag, _vr, _length: tag >> 16 == _PIXEL_GROUP and tag & 0xFFFF in (*_FLOAT_PIXELS, _PIXEL_DATA),
        specific_tags=list(_TAGS),
    )


def _check_pixels(header: Any, file: BinaryIO, syntax: Any, name: str, max_bytes: int) -> str:
    """Check what the header claims of the pixels, and leave the file at the value of the element with the pixels.

    Returns:
        The value representation of the pixels: ``OB`` for bytes or ``OW`` for words.
    """
    is_implicit, is_little_endian = header.original_encoding  # some data sets are implicit in an explicit syntax
    order = "<" if is_little_endian else ">"
    start = file.read(8 if is_implicit else 12)
    group, element = unpack(f"{order}HH", start[:4].ljust(4, b"\0"))
    if group != _PIXEL_GROUP:
        raise PairError(
            f"{name} is a DICOM file without pixels (a report, a directory or another object), or it was cut off "
            "before them; give files with a picture"
        )
    if element in _FLOAT_PIXELS:
        raise PairError(f"{name} is a DICOM file with pixels as floats, which are not read")
    rows, columns, samples, bits = (header.get(key) for key in ("Rows", "Columns", "SamplesPerPixel", "BitsAllocated"))
    if not all(isinstance(number, int) and number > 0 for number in (rows, columns, samples, bits)):
        raise PairError(f"{name} is a DICOM file that does not state the number of its rows, columns, samples and bits")
    if bits > 16:
        raise PairError(f"{name} is a DICOM file with more than 16 bits in a sample, which are not read")
    kind = _interpretation(header)
    if kind not in (*_GREY, _PALETTE, *_COLOUR) or samples != (3 if kind in _COLOUR else 1):
        known = ", ".join((*_GREY, _PALETTE, *_COLOUR))
        raise PairError(
            f"{name} is a DICOM file whose PhotometricInterpretation is unknown or does not fit its samples; {known} "
            "are read"
        )
    needed = rows * columns * max(_BYTES_PER_PIXEL, samples * bits // 8)
    if needed > max_bytes:
        raise PairError(
            f"{name} is too large: its {columns:,} x {rows:,} pixels take {needed:,} bytes, and the limit is "
            f"{max_bytes:,} (data.image_max_bytes). Make a smaller copy of it, or raise the limit"
        )
    if not syntax.is_encapsulated:
        sampling = 2 if kind == "YBR_FULL_422" else samples
        claimed = -(-rows * columns * sampling * bits * _frames(header) // 8)
        held = _bytes_left(file)
        if held < claimed:
            raise PairError(
                f"{name} is an incomplete DICOM file: it claims {claimed:,} bytes of pixels and holds {held:,}"
            )
    return "OW" if is_implicit else start[4:6].decode("ascii")


def _decode(header: Any, file: BinaryIO, syntax: Any, representation: str) -> NDArray[Any]:
    """Return the stored values of the first frame, (H, W) or (H, W, 3), with colours in RGB.

    The file is at the value of the element with the pixels.
    """
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder
    from pydicom.pixels.utils import as_pixel_options

    if syntax.is_encapsulated:
        start = file.tell()
        check_frame(get_frame(file, 0, number_of_frames=_frames(header)), header, syntax)
        file.seek(start)
    options = as_pixel_options(header, pixel_keyword="PixelData", pixel_vr=representation)
    stored: NDArray[Any] = get_decoder(syntax).as_array(file, index=0, **options)[0]
    return stored


def _colours(stored: NDArray[Any], header: Any, rules: ImageRules, syntax: Any) -> NDArray[np.uint8]:
    """Return the picture: grey (H, W) or RGB (H, W, 3)."""
    kind, little_endian = _interpretation(header), bool(syntax.is_little_endian)
    if kind in _GREY:
        inverted = kind == "MONOCHROME1"
        return grey_levels(stored, header, rules.grey_window, little_endian=little_endian, inverted=inverted)
    if kind == _PALETTE:
        return palette_colours(stored, header, little_endian=little_endian)
    return eight_bits(stored, int(header.BitsStored))


def _frames(header: Any) -> int:
    return max(1, int(header.get("NumberOfFrames") or 1))


def _interpretation(header: Any) -> str:
    return str(header.get("PhotometricInterpretation") or "").strip().upper()


def _bytes_left(file: BinaryIO) -> int:
    """Return the number of bytes from the place in a file to its end."""
    start = file.tell()
    end = file.seek(0, os.SEEK_END)
    file.seek(start)
    return end - start
