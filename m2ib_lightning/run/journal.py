"""The rows of the part in hand, on disk batch by batch: a process that is killed loses none that it had finished."""

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
"""A killed process loses nothing; a machine that loses power at most what came since."""


class Journal:
    """An Arrow stream beside the part that it will become; the part, once there, makes it void.

    Args:
        part: the Parquet file to be.
        schema: of its rows.
    """

    def __init__(self, part: Path, schema: pa.Schema = SCHEMA) -> None:
        self.part = part
        self.path = journal_of(part)
        if part.exists():
            raise FileExistsError(f"{part} is there already: give each run, and each start of it, names of its own")
        self._file = self.path.open("x+b")
        self.schema = schema
        self._writer = pa.ipc.new_stream(self._file, schema)
        self._synced = time.monotonic()
        self._rows = 0

    def append(self, rows: Sequence[dict[str, Any]], counts: Counts) -> None:
        """Add the rows of a batch."""
        self._writer.write_batch(to_record_batch(rows, self.schema), custom_metadata={COUNTS: counts.to_json()})
        self._file.flush()
        self._rows += len(rows)
        if time.monotonic() - self._synced >= _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Make the part of it; the writer knows best, also when someone took it for dead and made one."""
        self._file.seek(0)
        table, counts = _read(self._file)
        if table.num_rows != self._rows:
            raise OSError(f"{self.path} could be read back to row {table.num_rows} of {self._rows} only; it is kept")
        if table.num_rows:
            write_part(table, counts, self.part)
        self._file.close()
        self.path.unlink(missing_ok=True)


def journal_of(part: Path) -> Path:
    """Hidden, so that whoever reads the folder of parts does not meet it."""
    return part.with_name(f".{part.stem}.arrows")


def journals(folder: Path) -> list[Path]:
    """The journals that count: those whose part is not there."""
    return sorted(path for path in folder.glob(".part-*.arrows") if not part_of(path).exists())


def recover(journal: Path) -> None:
    """Make the part of a journal, also of one whose writer was killed."""
    if not part_of(journal).exists():
        table, counts = read_journal(journal)
        if table.num_rows:
            write_part(table, counts, part_of(journal))
    journal.unlink(missing_ok=True)


def read_journal(journal: Path) -> tuple[pa.Table, Counts]:
    """Its rows, as far as they were written whole."""
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
    except (StopIteration, OSError, TypeError, pa.ArrowException):  # the end, or where the writer was killed
        pass
    return pa.Table.from_batches(batches, schema=schema), counts


def part_of(journal: Path) -> Path:
    """What a journal becomes."""
    return journal.with_name(f"{journal.stem.removeprefix('.')}.parquet")
