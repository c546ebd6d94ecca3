"""JSONL tables: one JSON object per line."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.tables.lines import MAX_RECORD_BYTES, LineTable, Records, decode_record, read_line
from m2ib_lightning.pairs.tables.text_encoding import UTF_8, TextEncoding

_SAMPLED_RECORDS = 100
"""Number of first records whose keys become the columns."""


def open_jsonl(file: Path, encoding: TextEncoding = UTF_8) -> LineTable:
    """Open a JSONL file.

    Args:
        file: path of the file.
        encoding: its encoding.

    Raises:
        M2IBError: if none of the first records has a column.
    """
    records, columns, first_error = Records(), dict[str, None](), None
    position, parse = 0, partial(_parse_json, encoding)
    with file.open("rb") as lines:
        number = 0
        while (read := read_line(lines, encoding))[1]:
            (line, length), number = read, number + 1
            if encoding.outline(line).strip(" \t\r\n\v\f") if encoding.wide else line.strip():
                records.add(number, position, position + length)
                if len(records.lines) <= _SAMPLED_RECORDS and length <= MAX_RECORD_BYTES:
                    try:
                        columns.update(dict.fromkeys(parse(line)))
                    except PairError as error:
                        first_error = first_error or f"line {number} {error}"
            position += length
    if not columns:
        raise M2IBError(f"data.path={str(file)!r} could not be read: {first_error or 'it has no rows'}")
    return LineTable(file, records, list(columns), parse, lists=True, encoding=encoding)


def _parse_json(encoding: TextEncoding, content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(decode_record(content, encoding))
    except json.JSONDecodeError as error:
        raise PairError(
            f"is not JSON: {error.msg} (character {error.pos + 1}); give one object per line, or name the file .json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PairError(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise PairError(f"must be a JSON object with a name for each cell, got {type(record).__name__}")
    return record
