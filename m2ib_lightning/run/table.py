"""Reading the table of a run: parts, and the journals of processes that were killed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.run.journal import journals, part_of, read_journal
from m2ib_lightning.run.parts import SCHEMA

_KEY = r"(?s)^(?P<name>.*):(?P<row>\d+)(?:\.(?P<item>\d+))?$"
"""What keys look like: ``<file or shard>:<row>``, and ``.<item>`` where a row has several pairs."""

_ROWS = 16_384
"""How many rows are put in order at a time."""


def load_attributions(run: str | Path, columns: Sequence[str] | None = None) -> Any:
    """The table of a run as a ``datasets.Dataset``, in source order; ``.to_pandas()`` makes it a data frame.

    It also holds the rows of processes that were killed, which no Parquet part has yet.

    Args:
        run: the run directory.
        columns: which; None for all.

    Raises:
        M2IBError: if that is no run directory, or has no such column.
    """
    import datasets

    folder = Path(run).expanduser() / "attributions"
    if not folder.is_dir():
        raise M2IBError(f"{str(run)!r} is no run directory of task=attribute: it has no folder 'attributions'")
    for column in columns or ():
        if column not in SCHEMA.names:
            raise M2IBError(
                f"a run's table has no column {column!r}.{nearest(column, SCHEMA.names)} It has "
                f"{', '.join(SCHEMA.names)}"
            )
    wanted = list(columns) if columns is not None else SCHEMA.names
    table = pa.concat_tables([*tables(folder, list({"key": None} | dict.fromkeys(wanted)))])
    return datasets.Dataset(_taken(table.select(wanted), _order(table["key"])))


def parts(folder: Path) -> list[Path]:
    """The Parquet parts that are there."""
    return sorted(folder.glob("part-*.parquet"))


def tables(folder: Path, columns: list[str], schema: pa.Schema = SCHEMA) -> Iterator[pa.Table]:
    """The rows part by part, then those that only a journal has."""
    yield schema.empty_table().select(columns)
    waiting = journals(folder)  # first: one that becomes a part meanwhile is met as that
    there = parts(folder)
    for part in there:
        yield _read(part, columns)
    for journal in waiting:
        if part_of(journal) not in there:
            try:
                yield read_journal(journal)[0].select(columns)
            except FileNotFoundError:
                yield _read(part_of(journal), columns)


def _read(part: Path, columns: list[str]) -> pa.Table:
    return pq.read_table(part, columns=columns).replace_schema_metadata(None)


def _order(keys: pa.ChunkedArray) -> pa.Array:
    """The rows' numbers in the order of ``source_order``; by Arrow, unless a key is of another form."""
    found = pc.extract_regex(keys, _KEY)
    try:
        if found.null_count:
            raise pa.ArrowInvalid
        name, row, item = (pc.struct_field(found, part) for part in ("name", "row", "item"))
        item = pc.if_else(pc.equal(item, ""), "-1", item)  # before the first of a list
        columns = {"name": name, "row": row.cast(pa.int64()), "item": item.cast(pa.int64())}
    except pa.ArrowInvalid:  # or a number is too long
        parsed = [source_order(key) for key in keys.to_pylist()]
        return pa.array(sorted(range(len(parsed)), key=parsed.__getitem__), pa.int64())
    return pc.sort_indices(pa.table(columns), sort_keys=[(column, "ascending") for column in columns])


def _taken(table: pa.Table, order: pa.Array) -> pa.Table:
    """Its rows in that order, in pieces: 32 bits are too few for where each text of a large table begins."""
    wide = table.cast(pa.schema([field.with_type(_wide(field.type)) for field in table.schema])).combine_chunks()
    pieces = (wide.take(order[first : first + _ROWS]) for first in range(0, len(order), _ROWS))
    return pa.concat_tables([table.schema.empty_table(), *(piece.cast(table.schema) for piece in pieces)])


def _wide(kind: pa.DataType) -> pa.DataType:
    """The type with 64 bits for where a value begins."""
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    return pa.large_string() if pa.types.is_string(kind) else kind


def source_order(key: str) -> tuple[str, list[int]]:
    """Sorts keys as their source has them: by file, then by row.

    >>> sorted(["b.csv:2", "b.csv:10", "a.csv:3.1", "a.csv:3.0"], key=source_order)
    ['a.csv:3.0', 'a.csv:3.1', 'b.csv:2', 'b.csv:10']
    """
    name, _, row = key.rpartition(":")
    return name, [int(number) for number in re.findall(r"\d+", row)]
