"""The delimiter and the quoting of a CSV or TSV file, told by its first lines. Two possible readings are an error."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.images import looks_like_an_image
from m2ib_lightning.pairs.tables.column_names import find_column
from m2ib_lightning.pairs.tables.lines import MAX_RECORD_BYTES, decode_record, read_line
from m2ib_lightning.pairs.tables.text_encoding import TextEncoding

MAX_RECORD_LINES = 500
"""Largest number of lines in a record. Without a limit, each unclosed quote would read the rest of the file."""

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
"""Delimiters that a header can tell, and their names."""

_SEP = re.compile(r'"?sep=(.?)"?', re.IGNORECASE)
"""Excel's first line that names the delimiter."""

_CELL = r'(?:"[^"]*(?:""[^"]*)*"|[^"\t]*)'
_QUOTED_CELL = re.compile(r'(?:^|\t)"([^"]*(?:""[^"]*)*)"(?=\t|$)')
_QUOTED_RECORD = re.compile(rf"{_CELL}(?:\t{_CELL})*")


@dataclass(frozen=True)
class Dialect:
    """Rules for splitting a record into cells.

    Attributes:
        delimiter: character between cells.
        quoting: ``csv.QUOTE_MINIMAL`` or ``csv.QUOTE_NONE``.
    """

    delimiter: str
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL

    @property
    def delimiter_name(self) -> str:
        """Name of the delimiter, for messages."""
        return DELIMITERS.get(self.delimiter, repr(self.delimiter))

    def reader(self, lines: Iterator[str]) -> Iterator[list[str]]:
        """Return a strict ``csv.reader`` of some lines."""
        csv.field_size_limit(MAX_RECORD_BYTES)  # of the process; Python's own is less than a picture in base64 needs
        return csv.reader(lines, delimiter=self.delimiter, quoting=self.quoting, strict=True)


DIALECTS = {".csv": Dialect(","), ".tsv": Dialect("\t", csv.QUOTE_NONE)}
"""Dialects of files whose header tells no other one."""


@dataclass(frozen=True)
class TableLayout:
    """How a file is read.

    Attributes:
        dialect: rules for splitting a record.
        start: position of the header in bytes, behind a ``sep=`` line.
        lines: number of lines before it.
    """

    dialect: Dialect
    start: int = 0
    lines: int = 0


def find_layout(file: Path, names: Sequence[str], encoding: TextEncoding) -> TableLayout:
    """Return the dialect of a CSV or TSV file.

    A ``sep=`` line names the delimiter. Without one, it is the delimiter of comma, semicolon and tab that splits the
    header into columns with the wanted names. If none does, it is that of the file's name.

    Args:
        file: path of the file.
        names: names of the wanted columns.
        encoding: encoding of the file.

    Raises:
        M2IBError: if two delimiters give the wanted columns, a ``sep=`` line can't be read, or the quotes of a TSV may
            be text or quoting.
    """
    with file.open("rb") as opened:
        line, length = read_line(opened, encoding)
    named = _SEP.fullmatch(encoding.outline(line.removeprefix(encoding.mark)).rstrip("\r\n")) if length < 64 else None
    if named is not None:
        if named[1] not in (*DELIMITERS, "|"):
            raise M2IBError(
                f"data.path={str(file)!r}: its first line, {quoted(named[0])}, must name a comma, a semicolon, a tab "
                "or |"
            )
        return TableLayout(Dialect(named[1]), length, 1)
    usual = DIALECTS[file.suffix.lower()]
    headers = {delimiter: _header(file, Dialect(delimiter), encoding) for delimiter in DELIMITERS}
    plain = _header(file, usual, encoding)
    fitting = [delimiter for delimiter, header in headers.items() if _has(header, names)]
    bare = usual.quoting == csv.QUOTE_NONE and is_data_row(plain, names)
    if bare or _has(plain, names):
        fitting = list(dict.fromkeys([*fitting, usual.delimiter]))
    if len(fitting) > 1:
        kinds = " or a ".join(DELIMITERS[delimiter] for delimiter in fitting)
        raise M2IBError(
            f"data.path={str(file)!r}: its first line can be split at a {kinds}, and each way has the wanted columns: "
            "put a line such as sep=; above it, or rename the columns"
        )
    if not fitting:  # a message that lists the columns follows
        several = [delimiter for delimiter, header in headers.items() if len(header) > 1]
        if len(plain) == 1 and len(several) == 1:
            return TableLayout(Dialect(several[0]))
        return TableLayout(usual)
    if fitting[0] != usual.delimiter:
        return TableLayout(Dialect(fitting[0]))
    if usual.quoting == csv.QUOTE_NONE and (not (bare or _has(plain, names)) or _quotes_cells(file, encoding, bare)):
        return TableLayout(Dialect(usual.delimiter))
    return TableLayout(usual)


def is_data_row(cells: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether the first line holds data: Conceptual Captions is ``caption<TAB>image`` without a header."""
    if len(cells) != 2 or any(name in cells for name in names):
        return False
    return "://" in cells[1] or looks_like_an_image(cells[1])


def _has(header: Sequence[str], names: Sequence[str]) -> bool:
    return all(find_column(name, header) is not None for name in names)


def _header(file: Path, dialect: Dialect, encoding: TextEncoding) -> list[str]:
    """The cells of the first record; an empty list if the dialect can't split it."""
    try:
        return next((cells for cells in dialect.reader(_first_lines(file, encoding)) if cells), [])
    except (csv.Error, PairError):
        return []


def _first_lines(file: Path, encoding: TextEncoding) -> Iterator[str]:
    """Yield lines up to the limits of one record."""
    bytes_left = MAX_RECORD_BYTES
    with file.open("rb") as opened:
        for _ in range(MAX_RECORD_LINES):
            line, length = read_line(opened, encoding)
            bytes_left -= length
            if not line or bytes_left < 0:
                return
            yield decode_record(line, encoding)


def _quotes_cells(file: Path, encoding: TextEncoding, bare: bool) -> bool:
    """Whether the quotes of a TSV stand around cells, as pandas and Excel write them, or are text.

    One quote that quoting would not write makes all of them text. Quotes stand around cells if all fit, and one cell
    holds a doubled quote, a tab or a line end.
    """
    proven, doubtful = False, None
    for record in _records_with_quotes(file, encoding):
        if not _QUOTED_RECORD.fullmatch(record):
            return False
        for cell in _QUOTED_CELL.findall(record):
            if '""' in cell or any(end in cell for end in "\t\r\n"):
                proven = True
            elif "," in cell or ";" in cell or cell != cell.strip():  # Excel quotes a comma in a TSV too
                doubtful = doubtful or cell
            else:  # nobody quotes such a cell if the header is bare
                return False
    if doubtful is not None and not proven and not bare:
        example = quoted(f'"{doubtful}"')
        raise M2IBError(
            f"data.path={str(file)!r} has cells like {example}, whose quotes may be text, or stand around the cell: if "
            "they stand around it, rename the file to .csv; if they are text, double them and put quotes around "
            "the cell"
        )
    return proven


def _records_with_quotes(file: Path, encoding: TextEncoding) -> Iterator[str]:
    """Yield the records with quotes, as quoting divides them; a quote that is never closed gives its lines."""
    with file.open("rb") as opened:
        lines = iter(lambda: read_line(opened, encoding)[0], b"")
        for first in lines:
            if b'"' not in first:
                continue
            record = first.decode(encoding.name, "replace")
            is_open = record.count('"') % 2 == 1
            if is_open:
                parts, length = [record], len(record)
                for line in islice(lines, MAX_RECORD_LINES):
                    parts.append(line.decode(encoding.name, "replace"))
                    length += len(line)
                    is_open ^= parts[-1].count('"') % 2 == 1
                    if not is_open or length > MAX_RECORD_BYTES:
                        break
                record = "".join(parts)
            yield record.rstrip("\r\n")
