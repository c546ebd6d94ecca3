"""SIGTERM and Slurm's signal: finish the batch in hand, or wait no longer for the next one, write, and leave."""

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
    """After such a signal the batch in hand is finished and the run ends; put it after the callbacks that write.

    Attributes:
        received: the first signal, or None.
        launcher: whose processes get the signal too, if it started any.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.launcher: Any = None
        self._asked = False

    @property
    def by_slurm(self) -> bool:
        """Whether Slurm sent it, some time before it ends the job (``--signal=USR1@120``)."""
        return self._asked and "SLURM_JOB_ID" in os.environ

    def leave(self) -> None:
        """End the process if the signal has come: for where there is nothing to finish yet."""
        if self.received is not None:
            raise SystemExit(128 + self.received)

    def pass_on(self) -> None:
        """To processes that were started after the signal came."""
        if self.received is not None and isinstance(self.launcher, _SubprocessScriptLauncher):
            self.launcher.kill(self.received)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, the signals are caught, and passed on to the processes that this one started."""

        def handle(number: int, frame: Any) -> None:
            self.received = self.received or signal.Signals(number)
            self._asked = self._asked or number == getattr(signal, "SIGUSR1", None)
            if isinstance(self.launcher, _SubprocessScriptLauncher):
                self.launcher.kill(number)
            WAITING.ask(128 + self.received)

        if threading.current_thread() is not threading.main_thread():  # only there can handlers be set
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
        return -1 if self.received is not None else None  # it came while the batch was waited for

    @override
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if self.received is not None:
            trainer.should_stop = True


def requeue(job: str, asked: Path) -> None:
    """Ask Slurm to start the job again, which ends it first; once: ``asked`` is a file that says that it was done."""
    try:
        asked.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, timeout=60)
        print(f"asked Slurm to start job {job} again", flush=True)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"Slurm did not take job {job} back: {error}. Start it again by hand.", file=sys.stderr, flush=True)
