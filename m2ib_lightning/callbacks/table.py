"""Writes the table: Parquet parts of whole batches, each renamed into place when it is complete."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning import Trainer
from typing_extensions import override

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.base import ResultsCallback
from m2ib_lightning.rows import write_part


class TableWriter(ResultsCallback):
    """Rows go to ``part-<rank>-<number>.parquet`` when enough have come, or enough time has passed.

    Args:
        folder: the run's ``attributions``.
        rows: how many rows make a part.
        seconds: after how long a part is written whatever its size.
    """

    def __init__(self, folder: Path, rows: int = 512, seconds: float = 30.0) -> None:
        self.folder = folder
        self.rows = rows
        self.seconds = seconds
        self._waiting: list[dict[str, Any]] = []
        self._parts = 0
        self._last = time.monotonic()

    @override
    def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
        self._waiting += [result.to_row() for result in results]
        if len(self._waiting) >= self.rows or time.monotonic() - self._last >= self.seconds:
            self._write(trainer.global_rank)

    @override
    def finish(self, trainer: Trainer) -> None:
        self._write(trainer.global_rank)

    def _write(self, rank: int) -> None:
        if self._waiting:
            write_part(self._waiting, self.folder / f"part-{rank:05d}-{self._parts:06d}.parquet")
            self._parts += 1
        self._waiting = []
        self._last = time.monotonic()
