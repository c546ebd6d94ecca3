"""Stop of a run after SIGTERM or Slurm's signal.

The process finishes its current batch, or stops waiting for the next one. Then it writes its rows and exits.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from typing_extensions import override

from m2ib_lightning.pairs.waiting import SIGNALS, WAITING


class StopSignals(Callback):
    """Callback that ends the run after the current batch once a signal has come.

    It must come after the callbacks that write results.

    Attributes:
        received: the first signal that came; None before that.
        launcher: Lightning's launcher, whose child processes get the signal too.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.launcher: Any = None
        self._usr1 = False

    @property
    def by_slurm(self) -> bool:
        """Whether the signal is Slurm's warning that the job is about to end (``--signal=USR1@120``)."""
        return self._usr1 and "SLURM_JOB_ID" in os.environ

    def exit_if_received(self) -> None:
        """Exit if a signal has come; called during the start, when there is no batch to finish."""
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def pass_on(self) -> None:
        """Forward a signal to child processes that were started after it came."""
        if self.received is not None and isinstance(self.launcher, _SubprocessScriptLauncher):
            self.launcher.kill(self.received)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Context in which the signals are caught and forwarded to the child processes."""

        def handle(number: int, frame: Any) -> None:
            self.received = self.received or signal.Signals(number)
            self._usr1 = self._usr1 or number == getattr(signal, "SIGUSR1", None)
            if isinstance(self.launcher, _SubprocessScriptLauncher):
                self.launcher.kill(number)
            WAITING.ask(128 + self.received)

        if threading.current_thread() is not threading.main_thread():  # handlers can be set only there
            yield
            return
        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            WAITING.status = None

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> Any:
        return -1 if self.received is not None else None  # -1 ends the epoch: the signal came during the wait

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.received is not None:
            trainer.should_stop = True


def requeue(job: str, marker: Path) -> None:
    """Ask Slurm to requeue the job, once only. Slurm ends the job first.

    Args:
        job: id of the job.
        marker: file that the first call creates; calls that find it do nothing.
    """
    try:
        marker.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        print(f"asked Slurm to requeue job {job}", flush=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Slurm did not requeue job {job}: {error}. Submit it again by hand.", file=sys.stderr, flush=True)
