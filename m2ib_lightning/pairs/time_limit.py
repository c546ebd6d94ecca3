"""A time limit for a call that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic
from typing import TypeVar

T = TypeVar("T")

_SLICE = 0.5
"""Seconds of one wait. A signal that comes just before a wait is handled only after it."""


def within(seconds: float, function: Callable[[], T]) -> T:
    """Call ``function`` with a time limit.

    The call runs in its own thread. An alarm signal would only work in the main thread, and could not interrupt C code.
    A thread can't be stopped. A call that hangs stays behind in a daemon thread, which does not keep the process alive.

    Args:
        seconds: time limit.
        function: function without arguments.

    Returns:
        The result of ``function``. Its exceptions are raised again.

    Raises:
        TimeoutError: if the call takes longer than ``seconds``.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # raised again in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    end = monotonic() + seconds
    while thread.is_alive() and (left := end - monotonic()) > 0:
        thread.join(min(left, _SLICE))
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer after {seconds:g} s")
    return outcome[0]
