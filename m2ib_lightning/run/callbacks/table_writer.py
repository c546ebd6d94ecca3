"""Writer of the table: each batch goes to a journal at once, and a full journal becomes a Parquet part."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
from lightning import LightningModule, Trainer
from typing_extensions import override

from m2ib_lightning.run.background import BackgroundWork
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.journal import Journal
from m2ib_lightning.run.parts import SCHEMA


class TableWriter(ResultsCallback):
    """Callback that writes the rows of the table to ``part-<launch>-<rank>-<number>.parquet`` files.

    Args:
        folder: folder of the table.
        launch: number of this launch of the run.
        rows: number of rows after which a part is complete.
        seconds: seconds after which a part is complete, however few rows it has.
        schema: schema of the rows.
        count: function that returns the counts for a part's footer, from results and their seconds.
        work: the threads that write pictures. A row is written after the pictures before it, in order; None for none.
    """

    def __init__(
        self,
        folder: Path,
        launch: int = 1,
        rows: int = 2048,
        seconds: float = 600.0,
        *,
        schema: pa.Schema = SCHEMA,
        count: Callable[[list[Any], float], Counts] = Counts.of,
        work: BackgroundWork | None = None,
    ) -> None:
        self.folder = folder
        self.launch = launch
        self.schema = schema
        self.count = count
        self.work = work or BackgroundWork()
        self.rows = rows
        self.seconds = seconds
        self._journal: Journal | None = None
        self._parts = self._written = 0
        self._opened = self._last = time.monotonic()

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._last = time.monotonic()

    @override
    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        now = time.monotonic()
        rows, counts = [result.to_row() for result in results], self.count(results, now - self._last)
        self._last = now
        self.work.then(partial(self._append, rows, counts, trainer.global_rank))

    @override
    def finish(self, trainer: Trainer) -> None:
        try:
            self.work.drain()
        finally:
            self._close()

    def _append(self, rows: list[dict[str, Any]], counts: Counts, rank: int) -> None:
        if self._journal is None:
            self._journal = Journal(self.folder / part_name(self.launch, rank, self._parts), self.schema)
            self._parts += 1
            self._opened, self._written = time.monotonic(), 0
        self._journal.append(rows, counts)
        self._written += len(rows)
        if self._written >= self.rows or time.monotonic() - self._opened >= self.seconds:
            self._close()

    def _close(self) -> None:
        journal, self._journal = self._journal, None
        if journal is not None:
            journal.close()


def part_name(launch: int, rank: int, number: int) -> str:
    """Return the file name of a part, with the launch and the rank that wrote it.

    >>> part_name(1, 0, 12)
    'part-0001-00000-000012.parquet'
    """
    return f"part-{launch:04d}-{rank:05d}-{number:06d}.parquet"


def writer_of(part: Path) -> tuple[int, int]:
    """Return the launch and the rank that wrote a part.

    >>> writer_of(Path("part-0001-00000-000012.parquet"))
    (1, 0)
    """
    _, launch, rank, _ = part.stem.split("-")
    return int(launch), int(rank)
