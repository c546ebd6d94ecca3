"""Which pictures are read: their formats, their size in memory, and the time that it may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from PIL import Image

from m2ib_lightning.errors import M2IBError, listed, nearest
from m2ib_lightning.pairs.exif import check_annotated_as
from m2ib_lightning.pairs.windows import Window, parse_window

TIMEOUT = 60.0
"""Default time limit in seconds for reading one image."""

MAX_BYTES = 350_000_000
"""Default size of the largest picture that is decoded, in bytes: 87 megapixels."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000", "PPM")
"""Pillow's names of the formats that are always read."""

_NEVER = ("EPS", "WMF", "GRIB", "BUFR", "HDF5", "MPEG", "IPTC")
"""Formats that are never read: Pillow starts a program for them, or a handler of another package, or (IPTC) opens a
picture of any format inside.
"""


@dataclass(frozen=True)
class ImageRules:
    """Which pictures are read.

    Attributes:
        timeout: time limit in seconds for reading one image (``data.image_timeout``).
        max_bytes: size of the largest picture that is decoded, in bytes of its pixels (``data.image_max_bytes``).
        formats: Pillow's names of formats that are read besides ``FORMATS`` (``data.image_formats``).
        window: grey values that become black to white (``data.window``): ``center,width``, ``auto``, ``full``, or None
            for a DICOM file's own window, else ``auto`` for more than 8 bits.
        annotated_as: how pictures with an EXIF rotation were annotated (``data.annotated_as``): ``shown`` with it,
            ``stored`` without it, or None for what the size of an annotation tells.

    Raises:
        M2IBError: if a value is out of range, or a format is unknown or never read.
    """

    timeout: float = TIMEOUT
    max_bytes: int = MAX_BYTES
    formats: Sequence[str] = ()
    window: str | None = None
    annotated_as: str | None = None

    def __post_init__(self) -> None:
        if not self.timeout > 0:
            raise M2IBError(f"data.image_timeout must be a number of seconds above 0, got {self.timeout}")
        if not self.max_bytes >= 1:
            raise M2IBError(f"data.image_max_bytes must be a number of bytes of at least 1, got {self.max_bytes}")
        parse_window(self.window)
        check_annotated_as(self.annotated_as)
        object.__setattr__(self, "formats", tuple(name.upper() for name in self.formats))
        for name in self.formats:
            if name in _NEVER:
                raise M2IBError(f"data.image_formats: {name} is never read, because it can start other programs")
            if name not in FORMATS and name not in _known():
                others = sorted(_known() - set(FORMATS))
                raise M2IBError(
                    f"data.image_formats: Pillow knows no format {name!r} that can be read here; it knows "
                    f"{listed(others)}.{nearest(name, others)}"
                )

    @property
    def grey_window(self) -> Window | None:
        """The window that ``window`` names."""
        return parse_window(self.window)

    @property
    def permitted(self) -> tuple[str, ...]:
        """Pillow's names of all formats that are read and that this Pillow knows."""
        return tuple(name for name in dict.fromkeys((*FORMATS, *self.formats)) if name in _known())


def starts_programs(name: str | None) -> bool:
    """Return whether a format is never read, because Pillow starts a program or a handler for it."""
    return name in _NEVER


@cache
def _loaded() -> dict[str, object]:
    Image.init()
    return Image.OPEN  # type: ignore[return-value]  # the registry itself: formats may be registered later


def _known() -> set[str]:
    return set(_loaded()) - set(_NEVER)
