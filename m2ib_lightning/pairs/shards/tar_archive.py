"""Read the headers of a tar forwards, and believe no size that one of them claims."""

from __future__ import annotations

import gzip
import io
import tarfile
from typing import IO

from m2ib_lightning.errors import quoted

MAX_HEADER_BYTES = 2**16
"""Size of the largest extended header (PAX, or a long name) that is read."""

_MAX_CHAIN = 8
"""Largest number of extended headers before a member."""

_CHUNK_BYTES = 2**20
"""Bytes that are read at once: a claimed size allocates nothing."""

_LONG_NAMES = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_EXTENDED = (*_LONG_NAMES, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE)


def open_archive(file: io.BufferedReader) -> Archive:
    """Open a tar, or a gzipped tar, for reading its members in order.

    Args:
        file: the file, which is only read forwards.

    Raises:
        Exception: of many kinds, if the first header can't be read.
    """
    unzipped: IO[bytes] = _Unzipped(fileobj=file) if file.peek(2)[:2] == b"\x1f\x8b" else file  # type: ignore[assignment]
    forward = _Forward(unzipped)
    options = {"tarinfo": _Header, "encoding": "utf-8", "errors": "backslashreplace"}
    return Archive.open(fileobj=forward, mode="r:", **options)  # type: ignore[call-overload]


class Archive(tarfile.TarFile):
    """A tar whose members are read in order.

    Attributes:
        ended: whether the last block was the zeros that end an archive.
        chain: number of extended headers since the last member.
    """

    ended = False
    chain = 0


class _Unzipped(gzip.GzipFile):
    """A gzip file that is read with all its parts and checksums, which ``tarfile`` itself does not check."""

    def read(self, size: int | None = -1) -> bytes:
        """Read up to ``size`` bytes; data before a broken part is returned first."""
        return self.read1(-1 if size is None else size)


class _Forward:
    """A file that is read forwards, in parts. A jump beyond its end is an error and costs no time."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._position = 0

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes, or fewer at the end of the file."""
        parts = []
        while size > 0 and (part := self._file.read(min(size, _CHUNK_BYTES))):
            parts.append(part)
            size -= len(part)
            self._position += len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def tell(self) -> int:
        """Return the position in bytes."""
        return self._position

    def seek(self, position: int) -> None:
        """Read on to a position.

        Raises:
            ReadError: if the position is behind, or beyond the end of the file.
        """
        if position < self._position:
            raise tarfile.ReadError("a member's size leads backwards")
        while self._position < position:
            if not self.read(min(position - self._position, _CHUNK_BYTES)):
                raise tarfile.ReadError("unexpected end of data")


class _Header(tarfile.TarInfo):
    """A checked header of a member. ``tarfile`` takes a broken or missing header for the end, and drops the rest."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:
        assert isinstance(archive, Archive)
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
                archive.ended, archive.chain = False, 0
                return header

    def _proc_member(self, archive: Archive) -> tarfile.TarInfo:
        """Process a header by its type, after a check of its size."""
        if self.size < 0:
            raise tarfile.ReadError(f"the header of member {quoted(self.name)} claims {self.size} bytes")
        if self.type == tarfile.GNUTYPE_SPARSE:
            self._refuse_sparse()
        if self.type not in _EXTENDED:
            return super()._proc_member(archive)  # type: ignore[misc]
        if self.size > MAX_HEADER_BYTES:
            kind = "long name" if self.type in _LONG_NAMES else "PAX header"
            raise tarfile.ReadError(
                f"a {kind} claims {self.size:,} bytes; it is read if it has up to {MAX_HEADER_BYTES:,} bytes"
            )
        archive.chain += 1
        archive.ended = False
        if archive.chain > _MAX_CHAIN:
            raise tarfile.ReadError(f"a member has more than {_MAX_CHAIN} extended headers")
        return super()._proc_member(archive)  # type: ignore[misc]

    def _proc_pax(self, archive: Archive) -> _Header:
        """Apply the path and the size of a PAX header to the member that follows; nothing else in it matters here.

        The headers of ``tarfile`` also keep what a global header says, and trust the numbers of a sparse file.
        """
        assert archive.fileobj is not None
        content = archive.fileobj.read(self._block(self.size))[: self.size]  # type: ignore[attr-defined]
        if len(content) < self.size:
            raise tarfile.ReadError("unexpected end of data")
        records = {} if self.type == tarfile.XGLTYPE else _pax_records(content)
        member = self.fromtarfile(archive)
        if any(name.startswith(b"GNU.sparse.") for name in records):
            member._refuse_sparse()
        if path := records.get(b"path"):
            member.name = path.decode("utf-8", "backslashreplace").rstrip("/")
        if b"size" in records:
            size = records[b"size"]
            if not (size.isdigit() and len(size) < 20):
                raise tarfile.ReadError(f"the PAX header of member {quoted(member.name)} claims {quoted(size)} bytes")
            member.size = int(size)
            if member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:
                archive.offset = member.offset_data + member._block(member.size)  # type: ignore[attr-defined]
        return member

    def _refuse_sparse(self) -> None:
        raise tarfile.ReadError(f"the member {quoted(self.name)} is a sparse file: pack the shard without --sparse")


def _pax_records(content: bytes) -> dict[bytes, bytes]:
    """Return the records of a PAX header, each ``<length> <name>=<value>`` and a line end.

    Raises:
        ReadError: if a record is broken.
    """
    records = {}
    position = 0
    while position < len(content) and content[position]:  # zeros may follow the last record
        space = content.find(b" ", position, position + 20)
        length = content[position : max(space, position)]
        end = position + int(length) if length.isdigit() else 0
        name, equals, value = content[space + 1 : max(end - 1, 0)].partition(b"=")
        if not equals or content[end - 1 : end] != b"\n":
            raise tarfile.ReadError("a PAX header is broken")
        records[name] = value
        position = end
    return records
