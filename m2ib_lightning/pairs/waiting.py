"""Interrupt the wait for data when a stop signal arrives.

A run normally finishes its current batch before it stops. While it waits for data, it has no batch to finish. The wait
can take minutes, for example while a resumed stream skips the rows that are done. The scheduler would kill the job
before the wait ends. The state is global to the process, like its signal handlers.
"""

from __future__ import annotations

import signal
import threading
from types import TracebackType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1) if hasattr(signal, "SIGUSR1") else (signal.SIGTERM,)
"""Signals that ask a process to stop."""


class Stopped(SystemExit):
    """The exit after a stop signal during a wait; it is not an ``Exception``, which readers turn into failed rows."""


class _Waiting:
    """The context in which the main thread waits for data.

    Attributes:
        inside: whether the main thread is waiting.
        status: exit status of the process after a stop signal; None before one.
    """

    def __init__(self) -> None:
        self.inside = False
        self.status: int | None = None

    def __enter__(self) -> None:
        self.inside = threading.current_thread() is threading.main_thread()  # where signals are handled
        self._end()  # the signal may have come before the wait

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.inside = False

    def ask(self, status: int) -> None:
        """End the current wait and every later one; a signal handler calls this."""
        self.status = status
        self._end()

    def _end(self) -> None:
        if self.inside and self.status is not None:
            self.inside = False  # raise once: a second signal must not interrupt the clean-up
            raise Stopped(self.status)


WAITING = _Waiting()
"""The context in which this process waits for data."""


def ignore_stop_signals(worker: int) -> None:
    """Ignore stop signals in a data loader worker (``worker_init_fn``).

    A scheduler sends its signals to all processes of a job, but the main process needs its workers until it ends.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
