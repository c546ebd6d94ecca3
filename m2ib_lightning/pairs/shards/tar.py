"""WebDataset shards: tar files in which the members of a sample follow one another, read forwards and in memory."""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.images import looks_like_an_image

LIMIT = 256 * 2**20
"""Bytes of a sample: a larger one is not read, so that it can't fill the memory."""

TEXTS = ("txt", "text", "caption")
"""Extensions of captions."""

_MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""A sample's key, up to the first dot of the file name, and the extension after it; hidden files have none."""


def read_tar(file: io.BufferedReader) -> Iterator[dict[str, Any] | PairError]:
    """The samples of a shard, in order: a cell per extension, and ``__key__``; a ``PairError`` for one that is broken.

    Nothing is written to disk, whatever a member is called. Texts are decoded and stripped, JSON is parsed, and the
    fields of ``.json`` are cells too, where no member has their name; everything else stays bytes.

    Raises:
        Exception: of many kinds, where the rest can't be read; the sample before may be incomplete and is left out.
    """
    unzipped: IO[bytes] = _Unzipped(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file  # type: ignore[assignment]
    with _Archive.open(
        fileobj=unzipped, mode="r|", tarinfo=_Header, bufsize=2**16, encoding="utf-8", errors="backslashreplace"
    ) as archive:
        sample = None
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
            named = _MEMBER.fullmatch(member.name)
            if named is None or not member.isreg():
                continue
            if sample is None or sample.key != named[1]:
                if sample is not None:
                    yield sample.cells()
                sample = _Sample(named[1])
            sample.add(named[2].lower(), archive, member)
        if sample is not None:
            yield sample.cells()


class _Unzipped(gzip.GzipFile):
    """Unlike ``tarfile`` itself, this reads all parts of a gzip file and checks their sums."""

    def read(self, size: int | None = -1) -> bytes:
        """What there is before anything broken, at first."""
        return self.read1(-1 if size is None else size)


class _Archive(tarfile.TarFile):
    ended = False  # whether the last block was one of zeros, which end an archive


class _Header(tarfile.TarInfo):
    """A member's header. ``tarfile`` takes a broken or missing one for the end, and would leave the rest out unsaid."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        assert isinstance(archive, _Archive)
        while True:
            try:
                header = super().fromtarfile(archive)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                archive.ended = True  # another archive may follow, as `cat a.tar b.tar` makes it
            except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
                if archive.ended:  # so far it was complete
                    raise tarfile.EOFHeaderError from None  # type: ignore[attr-defined]
                empty = archive.fileobj is None or archive.fileobj.tell() == 0
                raise tarfile.ReadError(
                    "it is empty" if empty else "it stops without the zeros that end a tar: is it cut off?"
                ) from None
            except tarfile.HeaderError as error:
                raise tarfile.ReadError(f"a member's header is broken ({error})") from None
            else:
                archive.ended = False
                return header


class _Sample:
    """The members of one key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._parts: dict[str, bytes] = {}
        self._size = 0
        self._error: str | None = None

    def add(self, extension: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Read one more."""
        self._size += member.size + tarfile.BLOCKSIZE
        if self._error is None and extension in self._parts:
            self._fail(f"two members of sample {self.key!r} end in .{extension}: give each sample a name of its own")
        if self._error is None and self._size > LIMIT:
            self._fail(
                f"sample {self.key!r} has more than {LIMIT // 2**20} MiB with {member.name!r}, and was not read; the "
                "names of samples must differ before their first dot"
            )
        if self._error is None:
            content = archive.extractfile(member)
            assert content is not None  # it is a regular file
            self._parts[extension] = content.read()
            if len(self._parts[extension]) != member.size:
                raise tarfile.ReadError("unexpected end of data")

    def cells(self) -> dict[str, Any] | PairError:
        """What it holds."""
        if self._error is not None:
            return PairError(self._error)
        try:
            cells = {"__key__": self.key} | {name: self._cell(name, part) for name, part in self._parts.items()}
        except PairError as error:
            return error
        fields = cells.get("json")
        new = {name: field for name, field in fields.items() if name not in cells} if isinstance(fields, dict) else {}
        return cells | new

    def _cell(self, extension: str, part: bytes) -> Any:
        kind = extension.rpartition(".")[2]
        if kind not in (*TEXTS, "json"):
            return part
        name = f"{self.key}.{extension}"
        try:
            text = part.decode("utf-8-sig")
            return json.loads(text) if kind == "json" else text.strip()
        except UnicodeDecodeError as error:
            raise PairError(f"{name} is not UTF-8 (byte 0x{part[error.start]:02x}): save it as UTF-8") from None
        except (ValueError, RecursionError) as error:
            raise PairError(f"{name} is not JSON: {error}") from None

    def _fail(self, why: str) -> None:
        self._error = why
        self._parts.clear()


@dataclass(frozen=True)
class Aliases:
    """The text and the image column as other names of a sample's text and image.

    Args:
        text: the text column.
        image: the image column.
        rename_text: whether it stands for the first of ``TEXTS`` that a sample has.
        rename_image: whether it stands for a sample's first image.
    """

    text: str
    image: str
    rename_text: bool
    rename_image: bool

    @classmethod
    def of(cls, samples: list[dict[str, Any]], names: tuple[str, str]) -> Aliases:
        """Decided once for all samples, so that a column never means another thing in the next row.

        A text column is no alias if any of these samples has a cell of that name, an image column if any has a member.
        """
        text, image = names
        return cls(
            text,
            image,
            any(name in cells for cells in samples for name in TEXTS) and not any(text in cells for cells in samples),
            any(map(_images, samples)) and not any(isinstance(cells.get(image), bytes) for cells in samples),
        )

    @property
    def columns(self) -> list[str]:
        """Those that it adds."""
        return [self.text] * self.rename_text + [self.image] * self.rename_image

    def add(self, cells: dict[str, Any]) -> dict[str, Any]:
        """The cells of a sample, with None in either column where it has none."""
        text = (
            next((cells[name] for name in TEXTS if name in cells), None) if self.rename_text else cells.get(self.text)
        )
        image = next(iter(_images(cells)), None) if self.rename_image else cells.get(self.image)
        return cells | {self.text: text, self.image: image}


def _images(cells: dict[str, Any]) -> list[bytes]:
    """The images, without those like ``mask.png``: which of these is meant must be said."""
    return [
        cell
        for name, cell in cells.items()
        if isinstance(cell, bytes) and "." not in name and looks_like_an_image(f"x.{name}")
    ]
