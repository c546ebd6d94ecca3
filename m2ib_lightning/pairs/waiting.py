"""Waiting for data, which a signal to stop ends at once: while a process waits, it has nothing in hand to finish.

A source may be slow, and one that is read forwards passes over what is done for minutes: whoever waits for the next
batch to come before it heeds the signal is killed meanwhile. The state is the process's, as its signal handlers are.
"""

from __future__ import annotations

import signal
import threading
from types import TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
"""What asks a process to stop."""


class Stopped(SystemExit):
    """The signal came while the main thread waited for data; not an ``Exception``, which readers make a row of."""


class _Waiting:
    """The context in which the main thread waits.

    Attributes:
        inside: whether it does.
        status: what the process is to end with, once it was asked to.
    """

    def __init__(self) -> None:
        self.inside = False
        self.status: int | None = None

    def __enter__(self) -> None:
        self.inside = threading.current_thread() is threading.main_thread()  # where signals are handled
        self._end()  # it was asked before

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.inside = False

    def ask(self, status: int) -> None:
        """From a signal handler: wait no longer, neither now nor later."""
        self.status = status
        self._end()

    def _end(self) -> None:
        if self.inside and self.status is not None:
            self.inside = False  # once: what is cleared up on the way out is cleared up to the end
            raise Stopped(self.status)


WAITING = _Waiting()


def ignore_in_workers(worker: int) -> None:
    """For processes that decode: the signals are sent to all processes of a job, and these are needed to the end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
