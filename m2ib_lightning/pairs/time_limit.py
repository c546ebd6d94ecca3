"""A time limit for a call that may never return."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Call ``function`` with a time limit, and return or raise what it returns or raises.

    The call runs in a thread of its own. An alarm signal would only work in the main thread, and not against C code
    that does not return. A thread can't be stopped: one that hangs is left behind as a daemon, which does not keep the
    process from ending.

    Args:
        seconds: time limit.
        function: call without arguments.

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
    thread.join(min(seconds, threading.TIMEOUT_MAX))
    if failure:
        raise failure[0]
    if not outcome:
        raise TimeoutError(f"no answer after {seconds:g} s")
    return outcome[0]
