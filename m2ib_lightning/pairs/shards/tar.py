"""WebDataset shards: tar files with consecutive members for each sample, read forwards in memory."""

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

MAX_SAMPLE_BYTES = 256 * 2**20
"""Size of the largest sample that is read; the limit bounds the memory."""

TEXTS = ("txt", "text", "caption")
"""Extensions of caption members."""

_MEMBER = re.compile(r"((?:.*/)?[^/.]+)\.([^/]+)", re.DOTALL)
"""Pattern of a member's name: the sample's key up to the first dot, then the extension. Hidden files don't match."""


def read_tar(file: io.BufferedReader) -> Iterator[dict[str, Any] | PairError]:
    """Yield the samples of a shard in order, with a ``PairError`` for each broken sample.

    A sample has a cell for each extension, and ``__key__``. Texts are decoded and stripped, and JSON is parsed. The
    fields of ``.json`` become cells too, unless a member has their name. Everything else stays bytes. No member is
    written to disk, whatever its name.

    Raises:
        Exception: of many kinds, if the rest can't be read; a sample that may be incomplete is not yielded.
    """
    unzipped: IO[bytes] = _Unzipped(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file  # type: ignore[assignment]
    with _Archive.open(
        fileobj=unzipped, mode="r|", tarinfo=_Header, bufsize=2**16, encoding="utf-8", errors="backslashreplace"
    ) as archive:
        sample = None
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]  # otherwise it keeps every header
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
    """A gzip file that is read with all its parts and checksums, which ``tarfile`` itself does not check."""

    def read(self, size: int | None = -1) -> bytes:
        """Read up to ``size`` bytes; data before a broken part is returned first."""
        return self.read1(-1 if size is None else size)


class _Archive(tarfile.TarFile):
    ended = False  # whether the last block was the zeros that end an archive


class _Header(tarfile.TarInfo):
    """A checked header of a member. ``tarfile`` takes a broken or missing header for the end, and drops the rest."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        assert isinstance(archive, _Archive)
        while True:
            try:
                header = super().fromtarfile(archive)
            except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
                archive.ended = True  # another archive may follow, as after `cat a.tar b.tar`
            except (tarfile.EmptyHeaderError, tarfile.TruncatedHeaderError):  # type: ignore[attr-defined]
                if archive.ended:  # the archive is complete
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
    """The members of a sample, which share a key."""

    def __init__(self, key: str) -> None:
        self.key = key
        self._parts: dict[str, bytes] = {}
        self._size = 0
        self._error: str | None = None

    def add(self, extension: str, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        """Read a member of the sample."""
        self._size += member.size + tarfile.BLOCKSIZE
        if self._error is None and extension in self._parts:
            self._fail(f"two members of sample {self.key!r} end in .{extension}: give each sample a name of its own")
        if self._error is None and self._size > MAX_SAMPLE_BYTES:
            self._fail(
                f"sample {self.key!r} has more than {MAX_SAMPLE_BYTES // 2**20} MiB with {member.name!r}, and was not "
                "read; the names of samples must differ before their first dot"
            )
        if self._error is None:
            content = archive.extractfile(member)
            assert content is not None  # the member is a regular file
            self._parts[extension] = content.read()
            if len(self._parts[extension]) != member.size:
                raise tarfile.ReadError("unexpected end of data")

    def cells(self) -> dict[str, Any] | PairError:
        """Return the cells of the sample, or the error that makes it unreadable."""
        if self._error is not None:
            return PairError(self._error)
        try:
            cells = {"__key__": self.key} | {name: self._cell(name, part) for name, part in self._parts.items()}
        except PairError as error:
            return error
        fields = cells.get("json")
        extra = {name: field for name, field in fields.items() if name not in cells} if isinstance(fields, dict) else {}
        return cells | extra

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
    """The user's column names, as aliases of a sample's text and image.

    Attributes:
        text: name of the text column.
        image: name of the image column.
        rename_text: whether ``text`` is an alias of a sample's first member of ``TEXTS``.
        rename_image: whether ``image`` is an alias of a sample's first image.
    """

    text: str
    image: str
    rename_text: bool
    rename_image: bool

    @classmethod
    def of(cls, samples: list[dict[str, Any]], names: tuple[str, str]) -> Aliases:
        """Choose the aliases from the first samples, so that a column means the same in every row.

        The text column is not an alias if any sample has a cell of that name. The image column is not an alias if any
        sample has a member of that name.

        Args:
            samples: cells of the first samples.
            names: names of the text and the image column.
        """
        text, image = names
        return cls(
            text,
            image,
            any(name in cells for cells in samples for name in TEXTS) and not any(text in cells for cells in samples),
            any(map(_image_members, samples)) and not any(isinstance(cells.get(image), bytes) for cells in samples),
        )

    @property
    def columns(self) -> list[str]:
        """The names of the columns that the aliases add."""
        return [self.text] * self.rename_text + [self.image] * self.rename_image

    def add(self, cells: dict[str, Any]) -> dict[str, Any]:
        """Return the cells of a sample with the aliases; a missing text or image is None."""
        text = (
            next((cells[name] for name in TEXTS if name in cells), None) if self.rename_text else cells.get(self.text)
        )
        image = next(iter(_image_members(cells)), None) if self.rename_image else cells.get(self.image)
        return cells | {self.text: text, self.image: image}


def _image_members(cells: dict[str, Any]) -> list[bytes]:
    """The images of a sample with a plain extension; the user must name others, such as ``mask.png``."""
    return [
        cell
        for name, cell in cells.items()
        if isinstance(cell, bytes) and "." not in name and looks_like_an_image(f"x.{name}")
    ]
