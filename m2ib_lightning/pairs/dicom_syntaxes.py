"""Transfer syntaxes of DICOM files: how the data are written, and which package decodes the pixels."""

from __future__ import annotations

import io
from struct import unpack
from typing import Any, BinaryIO

from PIL import Image

from m2ib_lightning.errors import PairError

_RLE = "1.2.840.10008.1.2.5"

_JPEG, _J2K = "pylibjpeg pylibjpeg-libjpeg", "pylibjpeg pylibjpeg-openjpeg"

_PACKAGES: dict[str, str | None] = {
    "1.2.840.10008.1.2": None,  # implicit VR little endian
    "1.2.840.10008.1.2.1": None,  # explicit VR little endian
    "1.2.840.10008.1.2.2": None,  # explicit VR big endian
    _RLE: None,
    "1.2.840.10008.1.2.4.50": _JPEG,  # JPEG baseline
    "1.2.840.10008.1.2.4.51": _JPEG,  # JPEG extended
    "1.2.840.10008.1.2.4.57": _JPEG,  # JPEG lossless
    "1.2.840.10008.1.2.4.70": _JPEG,  # JPEG lossless, first-order prediction
    "1.2.840.10008.1.2.4.80": "pyjpegls",  # JPEG-LS lossless
    "1.2.840.10008.1.2.4.81": "pyjpegls",  # JPEG-LS near-lossless
    "1.2.840.10008.1.2.4.90": _J2K,  # JPEG 2000 lossless
    "1.2.840.10008.1.2.4.91": _J2K,  # JPEG 2000
    "1.2.840.10008.1.2.4.201": _J2K,  # high-throughput JPEG 2000 lossless
    "1.2.840.10008.1.2.4.202": _J2K,  # the same, by resolution
    "1.2.840.10008.1.2.4.203": _J2K,  # high-throughput JPEG 2000
}
"""Transfer syntaxes that are read, and the packages that decode them; None where pydicom alone does.

A deflated data set is not among them: pydicom inflates all of it, whatever its size.
"""

_PILLOW = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 90, 91))
"""Syntaxes that pydicom may decode with Pillow."""

_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
"""A syntax that Pillow decodes only with 8 bits."""

_TRANSFER_SYNTAX = 0x00020010


def syntax_of(file: BinaryIO) -> Any:
    """Read the transfer syntax of a DICOM file, and leave the file at the start of the data set.

    Returns:
        A pydicom ``UID``. In a file without the group that states it, the first element shows whether the data set is
        explicit or implicit.
    """
    from pydicom.filereader import read_dataset, read_preamble
    from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    read_preamble(file, force=True)
    group = read_dataset(
        file,
        is_implicit_VR=False,
        is_little_endian=True,
        stop_when=lambda tag, _vr, _length: tag >> 16 != 2,
        specific_tags=[_TRANSFER_SYNTAX],
    )
    stated = group.get("TransferSyntaxUID")
    if stated:
        return UID(str(stated))
    start = file.tell()
    _tag, letters = unpack("<4s2s", file.read(6).ljust(6, b"\0"))
    file.seek(start)
    return ExplicitVRLittleEndian if letters.isalpha() and letters.isupper() else ImplicitVRLittleEndian


def check_syntax(syntax: Any, name: str) -> None:
    """Check that the pixels of a transfer syntax can be decoded.

    Raises:
        PairError: if the syntax is not read, or no decoder for it is installed.
    """
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID_dictionary

    if syntax not in _PACKAGES:
        stated = f"the transfer syntax {syntax.name}" if syntax in UID_dictionary else "an unknown transfer syntax"
        raise PairError(
            f"{name} is a DICOM file with {stated}, which is not read. Convert it to Explicit VR Little Endian first "
            "(for example with dcmconv or gdcmconv)"
        )
    if not get_decoder(syntax).is_available:
        raise PairError(
            f"{name} is a DICOM file with the transfer syntax {syntax.name}, for which no decoder is installed: "
            f"pip install {_PACKAGES[syntax]}"
        )


def check_frame(frame: bytes, header: Any, syntax: Any) -> None:
    """Check that a compressed frame decodes to no more than the header claims, as far as that can be told.

    Args:
        frame: the compressed frame.
        header: pydicom data set with the claims.
        syntax: transfer syntax.

    Raises:
        ValueError: if it does not.
        UnidentifiedImageError: if Pillow would decode it, and it is neither JPEG nor JPEG 2000.
    """
    if syntax == _RLE:
        largest = 2 * header.Rows * header.Columns * header.SamplesPerPixel * header.BitsAllocated // 8 + 1024
        if len(frame) > largest:
            raise ValueError("the frame is longer than its pixels")
    elif syntax in _PILLOW and not (syntax == _JPEG_EXTENDED and header.BitsStored > 8):
        size = Image.open(io.BytesIO(frame), formats=("JPEG", "JPEG2000")).size
        if size != (header.Columns, header.Rows):
            raise ValueError("the frame and the header differ in size")


def decoder_advice(syntax: Any) -> str:
    """Return advice on installing another decoder for a transfer syntax; nothing where there is none."""
    packages = _PACKAGES.get(syntax)
    return f"; another decoder may read them: pip install {packages}" if packages else ""
