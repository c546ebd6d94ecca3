"""The formats of drawn pictures, with the settings of their encoders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from PIL import Image


@dataclass(frozen=True)
class Encoding:
    """How Pillow writes a picture.

    Attributes:
        suffix: ending of the file's name.
        options: arguments of ``Image.save``.
    """

    suffix: str
    options: Mapping[str, Any]

    def write(self, picture: Image.Image, file: BinaryIO) -> None:
        """Write the picture."""
        picture.save(file, **self.options)


FORMATS: dict[str, Encoding] = {
    "png": Encoding(".png", {"format": "PNG", "compress_level": 1}),
    "jpeg": Encoding(".jpg", {"format": "JPEG", "quality": 90, "subsampling": 0}),
    "webp": Encoding(".webp", {"format": "WEBP", "quality": 90, "method": 0}),
}
"""The formats by the names of ``output.format``. JPEG keeps its colours at full size, so that text stays sharp."""
