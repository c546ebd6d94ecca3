"""Text files of one record a line or so, read one at a time: what can't be read costs its own row and no other."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from m2ib_lightning.errors import PairError

BOM = b"\xef\xbb\xbf"


class LineTable:
    """A text file whose records are found by their place in it: opening reads it once and keeps 24 bytes a record.

    Args:
        file: the file.
        records: first line number, start and end in bytes, of each record.
        columns: their names.
        parse: from the bytes of a record to its cells; raises ``PairError``.
        lists: whether a cell can hold a list.
    """

    def __init__(
        self,
        file: Path,
        records: Records,
        columns: list[str],
        parse: Callable[[bytes], dict[str, Any]],
        *,
        lists: bool,
    ) -> None:
        self.file = file.resolve()  # the working directory may change
        self.name = file.name
        self.folder = file.parent
        self.columns = columns
        self._records = records
        self._parse = parse
        self._lists = lists

    def __len__(self) -> int:
        return len(self._records.starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """The cells of a record.

        Raises:
            PairError: if it can't be read; says which line and why.
        """
        with self.file.open("rb") as file:
            written = self._records.read(file, index)
        try:
            return self._parse(written)
        except PairError as error:
            first = self._records.lines[index]
            last = first + written.rstrip(b"\r\n").count(b"\n")
            where = f"line {first}" if first == last else f"lines {first} to {last}"
            raise PairError(f"{where} of {self.name} {error}") from None

    def lengths(self, column: str) -> list[int] | None:
        """How many items each record has in a column that holds lists (0: the cell is none); None where none does."""
        if not self._lists:
            return None
        with self.file.open("rb") as file:
            found = [self._length(self._records.read(file, index), column) for index in range(len(self))]
        return None if all(length is None for length in found) else [n or 0 for n in found]

    def _length(self, written: bytes, column: str) -> int | None:
        try:
            cell = self._parse(written).get(column) if b"[" in written else None
        except PairError:
            return None
        return len(cell) if isinstance(cell, list) else None


class Records:
    """Where the records of a file are: first line (from 1), start and end (bytes)."""

    def __init__(self) -> None:
        self.lines, self.starts, self.ends = array("q"), array("q"), array("q")

    def add(self, line: int, start: int, end: int) -> None:
        """One more."""
        self.lines.append(line)
        self.starts.append(start)
        self.ends.append(end)

    def read(self, file: BinaryIO, index: int) -> bytes:
        """The bytes of a record."""
        file.seek(self.starts[index])
        return file.read(self.ends[index] - self.starts[index])


def decoded(written: bytes) -> str:
    """The text of a record, without the byte order mark.

    Raises:
        PairError: if it is not UTF-8.
    """
    try:
        return written.removeprefix(BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PairError(f"is not UTF-8 (byte 0x{written[error.start]:02x}): save the table as UTF-8") from None
