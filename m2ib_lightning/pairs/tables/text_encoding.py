"""Encodings of text files: UTF-8, UTF-16 that a byte order mark tells, and the one that ``data.encoding`` names."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from pathlib import Path

from m2ib_lightning.errors import M2IBError, PairError

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_UNSUITABLE = ("iso2022", "idna", "unicode_escape", "raw_unicode_escape")
"""Beginnings of codecs in which a comma, a quote or a line end may be part of something else."""


@dataclass(frozen=True)
class TextEncoding:
    """An encoding of a text file.

    Attributes:
        name: Python's name of it.
        mark: byte order mark that a file may begin with.
        wide: whether a character has at least two bytes (UTF-16).
    """

    name: str = "utf-8"
    mark: bytes = codecs.BOM_UTF8
    wide: bool = False

    def decode(self, content: bytes) -> str:
        """Decode a text, without a byte order mark.

        Raises:
            PairError: if the text has another encoding; the message says what to do.
        """
        try:
            return content.removeprefix(self.mark).decode(self.name)
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            if self.name == "utf-8":
                advice = "save the file as UTF-8, or set data.encoding, such as cp1252 for Western Windows"
                raise PairError(f"is not UTF-8 (byte 0x{byte:02x}): {advice}") from None
            advice = "check data.encoding, or save the file as UTF-8"
            raise PairError(f"is not {self.name} (byte 0x{byte:02x}): {advice}") from None

    def outline(self, line: bytes) -> str:
        """Decode a line without an error; only its quotes, separators and line ends need to be right."""
        if self.name == "utf-8":
            return line.decode("latin-1")  # faster, and right in ASCII
        return line.decode(self.name, "replace")


UTF_8 = TextEncoding()


def encoding_of(file: Path, name: str | None) -> TextEncoding:
    """Return the encoding of a text file.

    Args:
        file: path of the file, whose first bytes are read.
        name: value of ``data.encoding``; None for UTF-8, or for UTF-16 with a byte order mark.

    Raises:
        M2IBError: if the encoding is unknown or unsuitable, or the file's byte order mark contradicts it.
    """
    named = None if name is None else named_encoding(name)
    with file.open("rb") as opened:
        head = opened.read(4)
    marked = next((encoding for mark, encoding in _MARKS if head.startswith(mark)), None)
    if marked == "utf-32":
        raise M2IBError(f"{str(file)!r} is UTF-32, which is not read: save it as UTF-8")
    if marked is None:
        if name is not None and codecs.lookup(name).name == "utf-16":
            raise M2IBError(
                f"data.encoding={name}: {str(file)!r} has no byte order mark: set utf-16-le (Windows) or utf-16-be"
            )
        if named is None and b"\0" in head[:2]:
            likely = "be" if head.startswith(b"\0") else "le"
            raise M2IBError(
                f"{str(file)!r} looks like UTF-16 without a byte order mark: set data.encoding=utf-16-{likely}"
            )
        return named or UTF_8
    found = named_encoding(marked)
    if named is not None and named != found and codecs.lookup(str(name)).name != "utf-16":
        raise M2IBError(
            f"data.encoding={name}: {str(file)!r} begins with the byte order mark of {marked}: leave data.encoding out"
        )
    return found


def named_encoding(name: str) -> TextEncoding:
    """Return the encoding with one of Python's names.

    >>> named_encoding("Windows-1252").name
    'cp1252'

    Raises:
        M2IBError: if there is none, or if text tables can't be read in it.
    """
    try:
        codec = codecs.lookup(name)
    except (LookupError, ValueError):
        raise M2IBError(
            f"data.encoding={name!r} is no encoding that Python knows: give utf-8, cp1252 (Western Windows), cp1250 "
            "(Central European), latin-1, utf-16-le, gbk, ..., or null for UTF-8"
        ) from None
    found = codec.name.replace("-", "_")
    if found.startswith("utf_16"):
        big = found.endswith("be")
        mark = codecs.BOM_UTF16_BE if big else codecs.BOM_UTF16_LE
        return TextEncoding("utf-16-be" if big else "utf-16-le", mark, wide=True)
    if found in ("utf_8", "utf_8_sig", "cp65001"):
        return UTF_8
    ascii_ = bytes(range(128))
    try:
        suitable = not found.startswith(_UNSUITABLE) and ascii_.decode(codec.name) == ascii_.decode("ascii")
    except (LookupError, ValueError):  # "base64" is a codec, but not of text
        suitable = False
    if not suitable:
        raise M2IBError(
            f"data.encoding={name!r} is not read, because its first 128 characters are not those of ASCII: save the "
            "table as UTF-8"
        )
    return TextEncoding(codec.name, b"")
