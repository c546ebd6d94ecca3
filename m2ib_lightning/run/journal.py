"""Journal of the rows of an unfinished part. It grows batch by batch, so a killed process loses no batch in it."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.parts import COUNTS, SCHEMA, to_record_batch, write_part

_SYNC_SECONDS = 1.0
"""Seconds between syncs to disk. A power cut loses at most the rows of that time; a killed process loses none."""


class Journal:
    """Arrow stream of the rows of an unfinished part; once the part exists, the journal is ignored.

    Args:
        part: path of the Parquet file that the journal becomes.
        schema: schema of the rows.

    Raises:
        FileExistsError: if the part or its journal exists.
    """

    def __init__(self, part: Path, schema: pa.Schema = SCHEMA) -> None:
        self.part = part
        self.path = journal_of(part)
        if part.exists():
            raise FileExistsError(f"{part} exists already: each run, and each launch of it, needs names of its own")
        self._file = self.path.open("x+b")
        self.schema = schema
        self._writer = pa.ipc.new_stream(self._file, schema)
        self._synced = time.monotonic()
        self._rows = 0

    def append(self, rows: Sequence[dict[str, Any]], counts: Counts) -> None:
        """Append the rows of a batch and their counts."""
        self._writer.write_batch(to_record_batch(rows, self.schema), custom_metadata={COUNTS: counts.to_json()})
        self._file.flush()
        self._rows += len(rows)
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Write the part and remove the journal.

        Another process may have recovered a part from this journal in the meantime. That part is replaced.

        Raises:
            OSError: if not all rows can be read back; the journal is kept.
        """
        self._file.seek(0)
        table, counts = _read(self._file)
        if table.num_rows != self._rows:
            raise OSError(f"{self.path} could be read back to row {table.num_rows} of {self._rows} only; it is kept")
        if table.num_rows:
            write_part(table, counts, self.part)
        self._file.close()
        self.path.unlink(missing_ok=True)


def journal_of(part: Path) -> Path:
    """Return the path of a part's journal: a hidden file, which readers of the folder skip."""
    return part.with_name(f".{part.stem}.arrows")


def journals(folder: Path) -> list[Path]:
    """Return the journals in a table's folder whose part does not exist."""
    return sorted(path for path in folder.glob(".part-*.arrows") if not part_of(path).exists())


def recover(journal: Path) -> None:
    """Write the part of a journal whose writer was killed, and remove the journal."""
    if not part_of(journal).exists():
        table, counts = read_journal(journal)
        if table.num_rows:
            write_part(table, counts, part_of(journal))
    journal.unlink(missing_ok=True)


def read_journal(journal: Path) -> tuple[pa.Table, Counts]:
    """Return the rows of the complete batches of a journal, and their counts."""
    with journal.open("rb") as file:
        return _read(file)


def _read(file: BinaryIO) -> tuple[pa.Table, Counts]:
    batches, counts, schema = [], Counts(), SCHEMA
    try:
        with pa.ipc.open_stream(pa.PythonFile(file, "r")) as stream:
            schema = stream.schema
            while True:
                batch, metadata = stream.read_next_batch_with_custom_metadata()
                batches.append(batch)
                counts += Counts.from_json(metadata[COUNTS])
    except (StopIteration, OSError, TypeError, pa.ArrowException):  # the end of the stream, or a truncated batch
        pass
    return pa.Table.from_batches(batches, schema=schema), counts


def part_of(journal: Path) -> Path:
    """Return the path of the part that a journal becomes."""
    return journal.with_name(f"{journal.stem.removeprefix('.')}.parquet")
