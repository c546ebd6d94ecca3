"""CSV and TSV tables. Every cell is text: a caption "NA" is not null, and an id "007" keeps its zeros."""

from __future__ import annotations

import csv
import io
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.tables.column_names import check_unique
from m2ib_lightning.pairs.tables.dialects import MAX_RECORD_LINES, Dialect, TableLayout, find_layout, is_data_row
from m2ib_lightning.pairs.tables.lines import MAX_RECORD_BYTES, LineTable, Records, decode_record, read_line
from m2ib_lightning.pairs.tables.text_encoding import TextEncoding, encoding_of


def open_delimited(file: Path, names: tuple[str, str], encoding: str | None = None) -> LineTable:
    """Open a CSV or TSV file.

    Args:
        file: path of the file.
        names: names of the text and the image column, also used for a TSV without a header.
        encoding: value of ``data.encoding``.

    Raises:
        M2IBError: if the header can't be read, has a single column or repeats one of ``names``, if there is no row, or
            if two readings are possible.
    """
    codec = encoding_of(file, encoding)
    layout = find_layout(file, names, codec)
    dialect = layout.dialect
    records = _scan(file, layout, codec)
    header: list[str] = []
    if records.starts:
        with file.open("rb") as opened:
            try:
                header = _split_cells(records.read(opened, 0), dialect, codec)
            except PairError as error:
                raise M2IBError(f"data.path={str(file)!r} could not be read: its header {error}") from None
    if dialect.delimiter == "\t" and file.suffix.lower() == ".tsv" and is_data_row(header, names):
        header = list(names)
    else:
        for column in (records.lines, records.starts, records.ends):
            del column[:1]
    if len(header) == 1:
        raise M2IBError(
            f"data.path={str(file)!r} has a single column, {quoted(header[0])}: separate its cells with commas, "
            "semicolons or tabs, or with | below a first line sep=|"
        )
    if not records.starts:
        raise M2IBError(f"data.path={str(file)!r} could not be read: it has no rows")
    check_unique(f"data.path={str(file)!r}", names, header)
    parse = partial(_parse_record, header, dialect, codec)
    return LineTable(file, records, list(dict.fromkeys(header)), parse, lists=False, encoding=codec)


class _LineReader:
    """Yields the lines of a file for ``csv.reader``, and records the position in the file."""

    def __init__(self, file: BinaryIO, encoding: TextEncoding) -> None:
        self.file = file
        self.encoding = encoding
        self.position, self.number = 0, 0
        self.start = 0  # number of lines before the current record
        self.start_position = 0

    def __iter__(self) -> _LineReader:
        return self

    def __next__(self) -> str:
        line, length = read_line(self.file, self.encoding)
        if not line:
            raise StopIteration
        text = line.removeprefix(self.encoding.mark) if self.position == 0 else line
        self.position += length
        self.number += 1
        if self.number - self.start > MAX_RECORD_LINES:
            raise csv.Error(f"more than {MAX_RECORD_LINES} lines in one record")
        if self.position - self.start_position > MAX_RECORD_BYTES:
            raise csv.Error(f"more than {MAX_RECORD_BYTES:,} bytes in one record")
        return self.encoding.outline(text)

    def skip(self) -> None:
        """Read one line, of any length."""
        self.position += read_line(self.file, self.encoding)[1]
        self.number += 1

    def seek(self, position: int, number: int) -> None:
        """Return to a byte position and its line number."""
        self.file.seek(position)
        self.position, self.number = position, number


def _scan(file: Path, layout: TableLayout, encoding: TextEncoding) -> Records:
    """Index the records of a file; a quoted cell may contain line ends.

    Where the parser fails, the first line becomes a record and the scan continues after it. An unclosed quote therefore
    does not swallow the rest of the table.
    """
    records = Records()
    with file.open("rb") as opened:
        lines = _LineReader(opened, encoding)
        lines.seek(layout.start, layout.lines)
        reader = layout.dialect.reader(lines)
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


def _parse_record(header: list[str], dialect: Dialect, encoding: TextEncoding, content: bytes) -> dict[str, Any]:
    cells = _split_cells(content, dialect, encoding)
    if len(cells) != len(header):
        hint = f"a cell with a {dialect.delimiter_name} needs quotes around it"
        if dialect.quoting == csv.QUOTE_NONE:
            hint = "a cell can't hold a tab"
        if len(cells) < len(header):
            hint = "an empty cell needs its separator too"
        raise PairError(f"has {len(cells)} cells and the header has {len(header)}: {hint}, and a quote must be closed")
    return dict(zip(header, cells, strict=True))


def _split_cells(content: bytes, dialect: Dialect, encoding: TextEncoding) -> list[str]:
    text = decode_record(content, encoding)
    try:
        return next(dialect.reader(io.StringIO(text, newline="\n")), [])
    except csv.Error as error:
        hint = "is a quote not closed, or one within quotes not doubled?"
        if "new-line character" in str(error):
            hint = "do its lines end in \\r alone? save it with \\n"
        raise PairError(f"could not be read: {error} ({hint})") from None
