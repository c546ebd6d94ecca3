"""Giving up on a call that does not come back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """What ``function`` returns or raises, unless it takes longer than ``seconds``.

    It runs in a thread of its own, not under an alarm: that works in every thread, and against C code that does not
    return. A thread can't be stopped, so one that hangs is left behind; it does not keep the process from ending.

    Raises:
        TimeoutError: when the time is over.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:  # raised again below, in the caller's thread
            failure.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer after {seconds:g} s")
    return outcome[0]
