"""Reader of the table of a run: its parts, and the journals of killed processes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.pairs.dicom import SUFFIXES
from m2ib_lightning.run.journal import journals, part_of, read_journal
from m2ib_lightning.run.parts import SCHEMA, complete, read_part
from m2ib_lightning.run.picture_files import PictureFiles

_KEY = r"(?s)^(?P<name>.*):(?P<row>\d+)(?:\.(?P<item>\d+))?$"
"""Pattern of keys: ``<file or shard>:<row>``, with ``.<item>`` if a row has several pairs."""

_CHUNK_ROWS = 16_384
"""Number of rows that are reordered at a time."""


def load_attributions(
    run: str | Path,
    columns: Sequence[str] | None = None,
    *,
    pictures: bool = False,
    image_root: str | Path | None = None,
) -> Any:
    """Return the table of a run as a ``datasets.Dataset`` in source order; ``.to_pandas()`` makes it a data frame.

    The rows of killed processes are included, although no Parquet part holds them yet.

    Args:
        run: the run directory.
        columns: names of the columns to read; None for all.
        pictures: whether to add a column ``picture``, a ``datasets.Image`` that is read when a row is. It is None where
            the picture has no file here (a URL, or inside an archive), and for DICOM files.
        image_root: folder of relative picture paths; None for that of the run.

    Raises:
        M2IBError: if the folder is not a run directory, or the table lacks one of the columns.
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
    names = list(columns) if columns is not None else SCHEMA.names
    read = dict.fromkeys(["key", *(["image"] if pictures else []), *names])
    table = pa.concat_tables([*tables(folder, list(read))])
    ordered = _reordered(table, _order(table["key"]))
    if not pictures:
        return datasets.Dataset(ordered.select(names))
    files = _files(ordered["image"], PictureFiles(run, image_root))
    rows = datasets.Dataset(ordered.select(names).append_column("picture", files))
    return rows.cast_column("picture", datasets.Image())


def _files(images: pa.ChunkedArray, find: PictureFiles) -> pa.Array:
    """Return the file of each picture, null for one without a file that Pillow reads."""
    files = {}
    for image in images.unique().to_pylist():
        file = find(image)
        files[image] = None if file is None or file.suffix.lower() in SUFFIXES else str(file)
    return pa.array((files[image] for image in images.to_pylist()), pa.string())


def parts(folder: Path) -> list[Path]:
    """Return the Parquet parts in a folder, sorted by name."""
    return sorted(folder.glob("part-*.parquet"))


def tables(folder: Path, columns: list[str], schema: pa.Schema = SCHEMA) -> Iterator[pa.Table]:
    """Yield an empty table, then the rows of each part, then the rows that only a journal holds.

    Args:
        folder: folder of the table.
        columns: names of the columns to read.
        schema: schema of the rows.
    """
    yield schema.empty_table().select(columns)
    unfinished = journals(folder)  # listed first: a journal that becomes a part now is in the list of parts
    finished = parts(folder)
    for part in finished:
        yield _read(part, columns)
    for journal in unfinished:
        if part_of(journal) not in finished:
            try:
                rows = read_journal(journal)[0]
                if rows.num_rows:  # a journal that has just been made holds not even its schema
                    yield complete(rows, columns)
            except FileNotFoundError:
                yield _read(part_of(journal), columns)


def _read(part: Path, columns: list[str]) -> pa.Table:
    return read_part(part, columns).replace_schema_metadata(None)


def _order(keys: pa.ChunkedArray) -> pa.Array:
    """Return the row numbers in ``source_order``; Arrow sorts them, unless a key does not fit the pattern."""
    fields = pc.extract_regex(keys, _KEY)
    try:
        if fields.null_count:
            raise pa.ArrowInvalid
        name, row, item = (pc.struct_field(fields, field) for field in ("name", "row", "item"))
        item = pc.if_else(pc.equal(item, ""), "-1", item)  # a key without an item comes before item 0
        columns = {"name": name, "row": row.cast(pa.int64()), "item": item.cast(pa.int64())}
    except pa.ArrowInvalid:  # a key of another form, or a number that is too long
        parsed = [source_order(key) for key in keys.to_pylist()]
        return pa.array(sorted(range(len(parsed)), key=parsed.__getitem__), pa.int64())
    return pc.sort_indices(pa.table(columns), sort_keys=[(column, "ascending") for column in columns])


def row_order(keys: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the row numbers of keys in ``source_order``."""
    order: np.ndarray[Any, np.dtype[np.int64]] = _order(pa.chunked_array([keys], pa.string())).to_numpy()
    return order


def _reordered(table: pa.Table, order: pa.Array) -> pa.Table:
    """Return the rows in the given order, taken in chunks.

    The texts of a large table do not fit 32-bit offsets, so the rows are taken from a copy with 64-bit offsets.
    """
    wide = table.cast(pa.schema([field.with_type(_wide(field.type)) for field in table.schema])).combine_chunks()
    chunks = (wide.take(order[first : first + _CHUNK_ROWS]) for first in range(0, len(order), _CHUNK_ROWS))
    return pa.concat_tables([table.schema.empty_table(), *(chunk.cast(table.schema) for chunk in chunks)])


def _wide(kind: pa.DataType) -> pa.DataType:
    """Return the type with 64-bit offsets."""
    if pa.types.is_list(kind):
        return pa.large_list(_wide(kind.value_type))
    return pa.large_string() if pa.types.is_string(kind) else kind


def source_order(key: str) -> tuple[str, list[int]]:
    """Return the sort key that puts rows in source order: by file, then by row and item.

    >>> sorted(["b.csv:2", "b.csv:10", "a.csv:3.1", "a.csv:3.0"], key=source_order)
    ['a.csv:3.0', 'a.csv:3.1', 'b.csv:2', 'b.csv:10']
    """
    name, _, row = key.rpartition(":")
    return name, [int(number) for number in re.findall(r"\d+", row)]
