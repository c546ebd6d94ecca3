"""CSV, TSV and JSONL, read one record at a time: a line that can't be read costs its own row and no other."""

from __future__ import annotations

import csv
import io
import json
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.images import looks_like_an_image

_BOM = b"\xef\xbb\xbf"

_LOOKED_AT = 100
"""How many records of a JSONL file say which columns there are."""


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart."""

    delimiter: str
    quoting: Literal[0, 3]


_DIALECTS = {
    ".csv": Dialect(",", csv.QUOTE_MINIMAL),
    ".tsv": Dialect("\t", csv.QUOTE_NONE),  # quotes are text in a TSV
}
LINE_SUFFIXES = (*_DIALECTS, ".jsonl")


class LineTable:
    """A text file whose records are found by their place in it: opening reads it once and keeps 16 bytes a record.

    Args:
        file: the file.
        records: first line number, start and end in bytes, of each record.
        columns: their names.
        parse: from the bytes of a record to its cells; raises ``PairError``.
    """

    def __init__(
        self,
        file: Path,
        records: Records,
        columns: list[str],
        parse: Callable[[bytes], dict[str, Any]],
    ) -> None:
        self.file = file
        self.name = file.name
        self.folder = file.parent
        self.columns = columns
        self._records = records
        self._parse = parse

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
        """How many items each record has in a column that holds lists; None where none does."""
        if self.file.suffix.lower() in _DIALECTS:
            return None
        with self.file.open("rb") as file:
            found = [self._length(self._records.read(file, index), column) for index in range(len(self))]
        return None if all(length is None for length in found) else [1 if n is None else n for n in found]

    def _length(self, written: bytes, column: str) -> int | None:
        try:
            cell = self._parse(written).get(column) if b"[" in written else None
        except PairError:
            return None
        return max(1, len(cell)) if isinstance(cell, list) else None


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


def open_lines(file: Path, names: tuple[str, str]) -> LineTable:
    """Open a CSV, TSV or JSONL file.

    Args:
        file: the file.
        names: the text and the image column: what a TSV without a header gets.

    Raises:
        M2IBError: if no column can be told from it.
    """
    suffix = file.suffix.lower()
    return _open_jsonl(file) if suffix == ".jsonl" else _open_delimited(file, _DIALECTS[suffix], names)


def _open_jsonl(file: Path) -> LineTable:
    records, columns, wrong = Records(), dict[str, None](), None
    position = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                records.add(number, position, position + len(line))
                if len(records.lines) <= _LOOKED_AT:
                    try:
                        columns.update(dict.fromkeys(_json_record(line)))
                    except PairError as error:
                        wrong = wrong or f"line {number} {error}"
            position += len(line)
    if not columns:
        raise M2IBError(f"data.path={str(file)!r} could not be read: {wrong or 'it has no rows'}")
    return LineTable(file, records, list(columns), _json_record)


def _json_record(written: bytes) -> dict[str, Any]:
    try:
        record = json.loads(_decoded(written))
    except (ValueError, RecursionError) as error:
        raise PairError(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise PairError(f"must be a JSON object with a name for each cell, got {type(record).__name__}")
    return record


def _open_delimited(file: Path, dialect: Dialect, names: tuple[str, str]) -> LineTable:
    """A CSV has no types: every cell stays text, so that a caption "NA" is not null and an id "007" keeps its zeros."""
    records = _scan(file, dialect)
    header: list[str] = []
    if records.starts:
        with file.open("rb") as opened:
            try:
                header = _cells(opened.read(records.ends[0]), dialect)
            except PairError as error:
                raise M2IBError(f"data.path={str(file)!r} could not be read: its header {error}") from None
    if file.suffix.lower() == ".tsv" and _is_a_row(header, names):
        header = list(names)
    else:
        for column in (records.lines, records.starts, records.ends):
            del column[:1]
    if not records.starts:
        raise M2IBError(f"data.path={str(file)!r} could not be read: it has no rows")
    twice = {name for name in header if header.count(name) > 1}
    if twice & set(names):
        raise M2IBError(f"data.path={str(file)!r} has more than one column named {', '.join(sorted(twice))}")
    return LineTable(file, records, list(dict.fromkeys(header)), partial(_delimited_record, header, dialect))


class _Lines:
    """The lines of a file for ``csv.reader``, and how far it has read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position, self.number = 0, 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        text = line.removeprefix(_BOM) if self.position == 0 else line
        self.position += len(line)
        self.number += 1
        return text.decode("latin-1")  # any byte is a letter: here only quotes, commas and line ends matter

    def back_to(self, position: int, number: int) -> None:
        """Read on from there."""
        self.file.seek(position)
        self.position, self.number = position, number


def _scan(file: Path, dialect: Dialect) -> Records:
    """Find the records; a quoted cell may hold line ends.

    A line that the parser stumbles over is a record of its own, and reading goes on after it: a quote that is never
    closed does not swallow the rest of the table.
    """
    records = Records()
    with file.open("rb") as opened:
        lines = _Lines(opened)
        reader = _reader(lines, dialect)
        while True:
            start, number = lines.position, lines.number
            try:
                cells = next(reader)
            except StopIteration:
                return records
            except csv.Error:
                lines.back_to(start, number)
                cells = [next(lines)]
            if cells:  # an empty line is none
                records.add(number + 1, start, lines.position)


def _reader(lines: Iterator[str], dialect: Dialect) -> Iterator[list[str]]:
    return csv.reader(lines, delimiter=dialect.delimiter, quoting=dialect.quoting, strict=True)


def _delimited_record(header: list[str], dialect: Dialect, written: bytes) -> dict[str, Any]:
    cells = _cells(written, dialect)
    if len(cells) != len(header):
        hint = "a cell with a comma needs quotes around it" if dialect.delimiter == "," else "a cell can't hold a tab"
        raise PairError(f"has {len(cells)} cells and the header has {len(header)}: {hint}, and a quote must be closed")
    return dict(zip(header, cells, strict=True))


def _cells(written: bytes, dialect: Dialect) -> list[str]:
    text = _decoded(written)
    try:
        return next(_reader(io.StringIO(text, newline="\n"), dialect), [])
    except csv.Error as error:
        raise PairError(
            f"could not be read: {error} (is a quote not closed, or one within quotes not doubled?)"
        ) from None


def _decoded(written: bytes) -> str:
    try:
        return written.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as error:
        raise PairError(f"is not UTF-8 (byte 0x{written[error.start]:02x}): save the table as UTF-8") from None


def _is_a_row(cells: list[str], names: tuple[str, str]) -> bool:
    """Conceptual Captions ships ``caption<TAB>image`` without a header: its first line ends in an image already."""
    if len(cells) != 2 or any(name in cells for name in names):
        return False
    return "://" in cells[1] or looks_like_an_image(cells[1])
