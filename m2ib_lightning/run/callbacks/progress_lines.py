"""Progress without a terminal: one line every 30 seconds, with what is done, the rate and the time left."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from typing_extensions import override

SECONDS = 30.0
"""Seconds between two lines."""

Print = Callable[[str], None]


def _print(line: str) -> None:
    print(line, flush=True)


class ProgressLines(ProgressBar):
    """Base class of Lightning progress bars that print lines instead of drawing a bar. Only rank 0 prints.

    Args:
        clock: function that returns the time in seconds.
        write: function that prints a line.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, write: Print = _print) -> None:
        super().__init__()
        self._clock = clock
        self._write = write
        self._start = self._last = 0.0
        self._enabled = True

    @override
    def disable(self) -> None:
        self._enabled = False

    @override
    def enable(self) -> None:
        self._enabled = True

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._start = self._last = self._clock()

    def tell(self, trainer: Trainer, line: Callable[[float], str]) -> None:
        """Print a line if it is time for one.

        Args:
            trainer: the Trainer.
            line: function that returns the line, given the seconds since the start.
        """
        now = self._clock()
        if self._enabled and trainer.is_global_zero and now - self._last >= SECONDS:
            self._last = now
            self._write(line(now - self._start))


class PairProgressLines(ProgressLines):
    """Progress of a run over pairs, in pairs.

    Args:
        activity: what the run does, the first word of each line.
        total: number of pairs that this rank has to do; None if unknown.
        ranks: number of ranks. With several, the line says that it counts the pairs of one.
        clock: function that returns the time in seconds.
        write: function that prints a line.
    """

    def __init__(
        self,
        activity: str = "Explaining",
        total: int | None = None,
        ranks: int = 1,
        clock: Callable[[], float] = time.monotonic,
        write: Print = _print,
    ) -> None:
        super().__init__(clock, write)
        self.activity = activity
        self.total = total
        self.ranks = ranks
        self._pairs = 0

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        self._pairs += len(outputs["results"])
        share = f" on rank 0 of {self.ranks}" if self.ranks > 1 else ""
        self.tell(trainer, lambda s: f"{self.activity}{share}: {progress(self._pairs, self.total, 'pair', s)}")


class StepProgressLines(ProgressLines):
    """Progress of a training, in optimiser steps; a resumed one counts those before too, but not for the rate."""

    _before = 0

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._before = trainer.global_step

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        steps = trainer.estimated_stepping_batches
        total = int(steps) if math.isfinite(steps) else None
        self.tell(trainer, lambda s: f"Training: {progress(trainer.global_step, total, 'step', s, self._before)}")


def progress(done: int, total: int | None, noun: str, seconds: float, before: int = 0) -> str:
    """Return what is done, the rate, and the time left where the total is known.

    Args:
        done: number done.
        total: number to do; None if unknown.
        noun: what is counted, in the singular.
        seconds: seconds since the start.
        before: how many of ``done`` were done before the start.

    >>> progress(120, 500, "pair", 30.0)
    '120 of 500 pairs, 4.00 pairs/s, 1 min 35 s left'
    >>> progress(120, None, "pair", 60.0)
    '120 pairs, 2.00 pairs/s'
    """
    rate = (done - before) / max(seconds, 1e-9)
    count = f"{done:,} {noun}s" if total is None else f"{done:,} of {total:,} {noun}s"
    left = f", {duration((total - done) / rate)} left" if total is not None and rate else ""
    return f"{count}, {rate:.2f} {noun}s/s{left}"


def duration(seconds: float) -> str:
    """Return a time in its two largest units.

    >>> duration(7.6), duration(95), duration(3 * 3600 + 125), duration(90000)
    ('8 s', '1 min 35 s', '3 h 2 min', '1 d 1 h')
    """
    rest = max(0, round(seconds))
    days, hours, minutes = rest // 86400, rest // 3600 % 24, rest // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest % 60} s" if minutes else f"{rest} s"
