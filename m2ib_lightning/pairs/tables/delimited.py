"""CSV and TSV tables. Every cell is text: a caption "NA" is not null, and an id "007" keeps its zeros."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from m2ib_lightning.errors import M2IBError, PairError, listed
from m2ib_lightning.pairs.images import looks_like_an_image
from m2ib_lightning.pairs.tables.lines import BOM, MAX_RECORD_BYTES, LineTable, Records, decode_record, read_line


@dataclass(frozen=True)
class Dialect:
    """Rules for splitting a record into cells.

    Attributes:
        delimiter: character between cells.
        quoting: ``csv.QUOTE_MINIMAL`` or ``csv.QUOTE_NONE``.
    """

    delimiter: str
    quoting: Literal[0, 3]


_MAX_RECORD_LINES = 500
"""Largest number of lines in a record. Without a limit, each unclosed quote would read the rest of the file."""

DIALECTS = {
    ".csv": Dialect(",", csv.QUOTE_MINIMAL),
    ".tsv": Dialect("\t", csv.QUOTE_NONE),  # quotes are text in a TSV
}


def open_delimited(file: Path, names: tuple[str, str]) -> LineTable:
    """Open a CSV or TSV file.

    Args:
        file: path of the file.
        names: names of the text and the image column, also used for a TSV without a header.

    Raises:
        M2IBError: if the header can't be read or repeats one of ``names``, or if there is no row.
    """
    dialect = DIALECTS[file.suffix.lower()]
    records = _scan(file, dialect)
    header: list[str] = []
    if records.starts:
        with file.open("rb") as opened:
            try:
                header = _split_cells(records.read(opened, 0), dialect)
            except PairError as error:
                raise M2IBError(f"data.path={str(file)!r} could not be read: its header {error}") from None
    if file.suffix.lower() == ".tsv" and _is_data_row(header, names):
        header = list(names)
    else:
        for column in (records.lines, records.starts, records.ends):
            del column[:1]
    if not records.starts:
        raise M2IBError(f"data.path={str(file)!r} could not be read: it has no rows")
    counts = Counter(header)
    if any(counts[name] > 1 for name in names):
        duplicates = sorted(name for name, count in counts.items() if count > 1)
        raise M2IBError(f"data.path={str(file)!r} has more than one column named {listed(duplicates)}")
    return LineTable(file, records, list(dict.fromkeys(header)), partial(_parse_record, header, dialect), lists=False)


class _LineReader:
    """Yields the lines of a file for ``csv.reader``, and records the position in the file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position, self.number = 0, 0
        self.start = 0  # number of lines before the current record
        self.start_position = 0

    def __iter__(self) -> _LineReader:
        return self

    def __next__(self) -> str:
        line, length = read_line(self.file)
        if not line:
            raise StopIteration
        text = line.removeprefix(BOM) if self.position == 0 else line
        self.position += length
        self.number += 1
        if self.number - self.start > _MAX_RECORD_LINES:
            raise csv.Error(f"more than {_MAX_RECORD_LINES} lines in one record")
        if self.position - self.start_position > MAX_RECORD_BYTES:
            raise csv.Error(f"more than {MAX_RECORD_BYTES:,} bytes in one record")
        return text.decode("latin-1")  # decodes any byte; the scan needs only quotes, separators and line ends

    def skip(self) -> None:
        """Read one line, of any length."""
        self.position += read_line(self.file)[1]
        self.number += 1

    def seek(self, position: int, number: int) -> None:
        """Return to a byte position and its line number."""
        self.file.seek(position)
        self.position, self.number = position, number


def _scan(file: Path, dialect: Dialect) -> Records:
    """Index the records of a file; a quoted cell may contain line ends.

    Where the parser fails, the first line becomes a record and the scan continues after it. An unclosed quote therefore
    does not swallow the rest of the table.
    """
    records = Records()
    with file.open("rb") as opened:
        lines = _LineReader(opened)
        reader = _reader(lines, dialect)
        while True:
            start, number = lines.position, lines.number
            lines.start, lines.start_position = number, start
            try:
                cells = next(reader)
            except StopIteration:
                return records
            except csv.Error:
                lines.seek(start, number)
                lines.skip()
                cells = [""]
            if cells:  # an empty line is not a record
                records.add(number + 1, start, lines.position)


def _reader(lines: Iterator[str], dialect: Dialect) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_RECORD_BYTES)  # of the process; Python's own limit is less than a picture in base64 needs
    return csv.reader(lines, delimiter=dialect.delimiter, quoting=dialect.quoting, strict=True)


def _parse_record(header: list[str], dialect: Dialect, content: bytes) -> dict[str, Any]:
    cells = _split_cells(content, dialect)
    if len(cells) != len(header):
        hint = "a cell with a comma needs quotes around it" if dialect.delimiter == "," else "a cell can't hold a tab"
        if len(cells) < len(header):
            hint = "an empty cell needs its separator too"
        raise PairError(f"has {len(cells)} cells and the header has {len(header)}: {hint}, and a quote must be closed")
    return dict(zip(header, cells, strict=True))


def _split_cells(content: bytes, dialect: Dialect) -> list[str]:
    text = decode_record(content)
    try:
        return next(_reader(io.StringIO(text, newline="\n"), dialect), [])
    except csv.Error as error:
        hint = "is a quote not closed, or one within quotes not doubled?"
        if "new-line character" in str(error):
            hint = "do its lines end in \\r alone? save it with \\n"
        raise PairError(f"could not be read: {error} ({hint})") from None


def _is_data_row(cells: list[str], names: tuple[str, str]) -> bool:
    """Whether the first line holds data: Conceptual Captions ships ``caption<TAB>image`` without a header."""
    if len(cells) != 2 or any(name in cells for name in names):
        return False
    return "://" in cells[1] or looks_like_an_image(cells[1])
