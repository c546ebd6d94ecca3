"""Copies of the pictures of a run, for the data sets that hold pictures and masks side by side."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from m2ib_lightning.errors import PairError
from m2ib_lightning.files import atomic_write
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.pairs.pair import Pair

_SUFFIXES = {"JPEG": ".jpg", "PNG": ".png"}
"""Formats that every reader of data sets takes, with their suffix."""

_MODES = ("L", "P", "RGB", "RGBA")
"""Modes of pictures with 8 bits a channel."""

_ORIENTATION = 0x0112
"""EXIF tag that says how the picture is rotated."""


class Pictures:
    """The files of a run's pictures, and their copies.

    Args:
        find: function that returns the file of a picture, given the cell of the table; None if there is no file.
        copies: whether ``copy`` copies.

    Attributes:
        missing: pictures that were looked for and have no file, or whose file can't be read.
    """

    def __init__(self, find: Callable[[str], Path | None], *, copies: bool) -> None:
        self._find = find
        self.copies = copies
        self.missing: set[str] = set()

    def file(self, pair: Pair) -> Path | None:
        """Return the absolute path of a pair's picture, or None if it has no file here."""
        found = self._find(pair.image)
        if found is None:
            self.missing.add(pair.image)
        return found

    def has_file(self, image: str) -> bool:
        """Return whether a picture has a file here; a picture without one does not count as missing."""
        return self._find(image) is not None

    @property
    def missing_text(self) -> str:
        """A sentence about the missing pictures."""
        return (
            f"{len(self.missing)} pictures have no file here (a URL, in an archive, or drawn), or can't be read, or "
            "have changed: --image-root names the folder of relative paths."
        )

    def copy(self, pair: Pair, folder: Path, stem: str) -> str | None:
        """Copy a pair's picture to a folder; return the name of the copy, or None if there is none.

        The copy is upright and has the size to which boxes and masks refer. A JPEG or PNG file that already is so is
        copied byte by byte, and any other picture becomes a PNG file. A file that has another size than at the time of
        the run is not copied.

        Args:
            pair: the pair.
            folder: the folder, which is made if it is missing.
            stem: name of the copy without suffix.
        """
        if not self.copies or (source := self.file(pair)) is None:
            return None
        folder.mkdir(parents=True, exist_ok=True)
        suffix = _suffix_of_plain(source, pair.image_size)
        try:
            if suffix is not None:
                with atomic_write(folder / f"{stem}{suffix}") as file, source.open("rb") as original:
                    shutil.copyfileobj(original, file)
                return f"{stem}{suffix}"
            picture = read_image(source).picture
        except PairError:
            picture = None
        if picture is None or picture.size != pair.image_size:
            self.missing.add(pair.image)
            return None
        with atomic_write(folder / f"{stem}.png") as file:
            picture.save(file, format="PNG")
        return f"{stem}.png"


def _suffix_of_plain(source: Path, size: tuple[int, int]) -> str | None:
    """Return the suffix of the copy if the file can be copied as it is, else None. Only the header is read."""
    try:
        with Image.open(source, formats=list(_SUFFIXES)) as picture:
            is_plain = picture.size == size and picture.mode in _MODES and picture.getexif().get(_ORIENTATION, 1) == 1
            return _SUFFIXES.get(str(picture.format)) if is_plain else None
    except Exception:  # decoders raise anything; `read_image` says what is wrong
        return None
