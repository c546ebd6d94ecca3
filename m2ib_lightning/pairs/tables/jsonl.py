"""JSONL: an object a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.tables.lines import LineTable, Records, decoded

_LOOKED_AT = 100
"""How many records say which columns there are."""


def open_jsonl(file: Path) -> LineTable:
    """Open a JSONL file.

    Raises:
        M2IBError: if no column can be told from it.
    """
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
    return LineTable(file, records, list(columns), _json_record, lists=True)


def _json_record(written: bytes) -> dict[str, Any]:
    try:
        record = json.loads(decoded(written))
    except json.JSONDecodeError as error:
        raise PairError(
            f"is not JSON: {error.msg} (character {error.pos + 1}); give an object a line, or name the file .json"
        ) from None
    except (ValueError, RecursionError) as error:
        raise PairError(f"is not JSON: {error}") from None
    if not isinstance(record, dict):
        raise PairError(f"must be a JSON object with a name for each cell, got {type(record).__name__}")
    return record
