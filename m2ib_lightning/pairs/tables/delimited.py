"""CSV and TSV, strictly read; without types, so that a caption "NA" is not null and an id "007" keeps its zeros."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Literal

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.images import looks_like_an_image
from m2ib_lightning.pairs.tables.lines import BOM, LineTable, Records, decoded


@dataclass(frozen=True)
class Dialect:
    """How cells are told apart."""

    delimiter: str
    quoting: Literal[0, 3]


_LONGEST = 500
"""Lines of one record: an open quote would make each line read all that follow, and the table take for ever."""

DIALECTS = {
    ".csv": Dialect(",", csv.QUOTE_MINIMAL),
    ".tsv": Dialect("\t", csv.QUOTE_NONE),  # quotes are text in a TSV
}


def open_delimited(file: Path, names: tuple[str, str]) -> LineTable:
    """Open a CSV or TSV file.

    Args:
        file: the file.
        names: the text and the image column: what a TSV without a header gets.

    Raises:
        M2IBError: if there is no header, or no row.
    """
    dialect = DIALECTS[file.suffix.lower()]
    records = _scan(file, dialect)
    header: list[str] = []
    if records.starts:
        with file.open("rb") as opened:
            try:
                header = _cells(records.read(opened, 0), dialect)
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
    return LineTable(file, records, list(dict.fromkeys(header)), partial(_record, header, dialect), lists=False)


class _Lines:
    """The lines of a file for ``csv.reader``, and how far it has read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.position, self.number = 0, 0
        self.start = 0  # the line before the record in hand

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = self.file.readline()
        if not line:
            raise StopIteration
        text = line.removeprefix(BOM) if self.position == 0 else line
        self.position += len(line)
        self.number += 1
        if self.number - self.start > _LONGEST:
            raise csv.Error(f"more than {_LONGEST} lines in one record")
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
            lines.start = number
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


def _record(header: list[str], dialect: Dialect, written: bytes) -> dict[str, Any]:
    cells = _cells(written, dialect)
    if len(cells) != len(header):
        hint = "a cell with a comma needs quotes around it" if dialect.delimiter == "," else "a cell can't hold a tab"
        if len(cells) < len(header):
            hint = "an empty cell needs its separator too"
        raise PairError(f"has {len(cells)} cells and the header has {len(header)}: {hint}, and a quote must be closed")
    return dict(zip(header, cells, strict=True))


def _cells(written: bytes, dialect: Dialect) -> list[str]:
    text = decoded(written)
    try:
        return next(_reader(io.StringIO(text, newline="\n"), dialect), [])
    except csv.Error as error:
        hint = "is a quote not closed, or one within quotes not doubled?"
        if "new-line character" in str(error):
            hint = "do its lines end in \\r alone? save it with \\n"
        raise PairError(f"could not be read: {error} ({hint})") from None


def _is_a_row(cells: list[str], names: tuple[str, str]) -> bool:
    """Conceptual Captions ships ``caption<TAB>image`` without a header: its first line ends in an image already."""
    if len(cells) != 2 or any(name in cells for name in names):
        return False
    return "://" in cells[1] or looks_like_an_image(cells[1])
