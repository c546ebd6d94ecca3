"""Text files that are read record by record: a broken record only costs its own row."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from m2ib_lightning.errors import PairError, shortened
from m2ib_lightning.pairs.tables.text_encoding import UTF_8, TextEncoding

MAX_RECORD_BYTES = 64 * 2**20
"""Size of the largest record that is read."""

_SKIPPED_BYTES = 2**20


class LineTable:
    """A text file with random access to its records. The index takes 24 bytes per record.

    Args:
        file: path of the file.
        records: index of the records.
        columns: names of the columns.
        parse: function from the bytes of a record to its cells; raises ``PairError``.
        lists: whether a cell can hold a list.
        encoding: encoding of the file.
    """

    def __init__(
        self,
        file: Path,
        records: Records,
        columns: list[str],
        parse: Callable[[bytes], dict[str, Any]],
        *,
        lists: bool,
        encoding: TextEncoding = UTF_8,
    ) -> None:
        self.file = file.resolve()  # absolute: the working directory may change
        self.name = file.name
        self.folder = file.parent
        self.columns = columns
        self._records = records
        self._parse = parse
        self._lists = lists
        self._encoding = encoding

    def __len__(self) -> int:
        return len(self._records.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return the cells of a record.

        Raises:
            PairError: if the record can't be read; the message says which line and why.
        """
        content = b""
        try:
            with self.file.open("rb") as file:
                content = self._records.read(file, index)
            return self._parse(content)
        except PairError as error:
            first = self._records.lines[index]
            last = first + self._encoding.outline(content).rstrip("\r\n").count("\n")
            where = f"line {first}" if first == last else f"lines {first} to {last}"
            raise PairError(f"{where} of {shortened(self.name)} {error}") from None

    def list_lengths(self, column: str) -> list[int] | None:
        """Return the length of each row's list in a column (0 for any other cell); None if no cell is a list."""
        if not self._lists:
            return None
        with self.file.open("rb") as file:
            lengths = [self._length(file, index, column) for index in range(len(self))]
        return None if all(length is None for length in lengths) else [length or 0 for length in lengths]

    def _length(self, file: BinaryIO, index: int, column: str) -> int | None:
        try:
            content = self._records.read(file, index)
            cell = self._parse(content).get(column) if b"[" in content else None
        except PairError:
            return None
        return len(cell) if isinstance(cell, list) else None


class Records:
    """An index of the records in a file: number of the first line (from 1), start and end in bytes."""

    def __init__(self) -> None:
        self.lines, self.starts, self.ends = array("q"), array("q"), array("q")

    def add(self, line: int, start: int, end: int) -> None:
        """Append a record."""
        self.lines.append(line)
        self.starts.append(start)
        self.ends.append(end)

    def read(self, file: BinaryIO, index: int) -> bytes:
        """Return the bytes of a record.

        Raises:
            PairError: if it is larger than ``MAX_RECORD_BYTES``.
        """
        length = self.ends[index] - self.starts[index]
        if length > MAX_RECORD_BYTES:
            raise PairError(f"has {length:,} bytes, and the limit is {MAX_RECORD_BYTES:,}")
        file.seek(self.starts[index])
        return file.read(length)


def read_line(file: BinaryIO, encoding: TextEncoding = UTF_8) -> tuple[bytes, int]:
    """Read a line. Of a line above ``MAX_RECORD_BYTES`` only the beginning is kept.

    Returns:
        The line, and its length in bytes; an empty line of length 0 at the end of the file.
    """
    if encoding.wide:
        return _read_wide_line(file, big=encoding.name == "utf-16-be")
    line = file.readline(MAX_RECORD_BYTES + 1)
    length = len(line)
    rest = line
    while len(line) > MAX_RECORD_BYTES and rest and not rest.endswith(b"\n"):
        rest = file.readline(_SKIPPED_BYTES)
        length += len(rest)
    return line, length


def _read_wide_line(file: BinaryIO, *, big: bool) -> tuple[bytes, int]:
    """Read a line of UTF-16: the byte of a line end may also be half of another character."""
    parts: list[bytes] = []
    length, before = 0, b""
    while part := file.readline(_SKIPPED_BYTES):
        if not big and part.endswith(b"\n") and (length + len(part)) % 2:
            part += file.read(1)  # the second half of the character
        length += len(part)
        if length <= MAX_RECORD_BYTES + len(part):
            parts.append(part)
        before = (before + part[-2:])[-2:]
        if length % 2 == 0 and before == (b"\0\n" if big else b"\n\0"):
            break
    return b"".join(parts), length


def decode_record(content: bytes, encoding: TextEncoding = UTF_8) -> str:
    """Decode a record, without a byte order mark.

    Raises:
        PairError: if the record has another encoding.
    """
    return encoding.decode(content)
