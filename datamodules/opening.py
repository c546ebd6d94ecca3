"""Open a source within its time limit; the error of a wrong source names the right one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.annotations.recognise import recognise
from m2ib_lightning.pairs.time_limit import within
from m2ib_lightning.pairs.waiting import WAITING

T = TypeVar("T")


def check_open_timeout(seconds: float) -> None:
    """Check ``data.open_timeout``.

    Raises:
        M2IBError: if it is not above 0.
    """
    if not seconds > 0:
        raise M2IBError(f"data.open_timeout must be a number of seconds above 0, got {seconds}")


def open_in_time(name: str, path: str, seconds: float, open_: Callable[[], T]) -> T:
    """Open a source; a stop signal ends the wait for it.

    Args:
        name: name of the data source.
        path: what it opens.
        seconds: time limit.
        open_: function that opens it.

    Raises:
        M2IBError: if it can't be opened, or not in time.
    """
    try:
        with WAITING:  # a stop signal ends it, however long the source takes
            return within(seconds, lambda: _open(name, path, open_))
    except TimeoutError:
        raise M2IBError(
            f"data.path={path!r} was still being opened after {seconds:g} s "
            "(data.open_timeout): give a smaller table, shards with data.streaming=true, or more time"
        ) from None


def _open(name: str, path: str, open_: Callable[[], T]) -> T:
    try:
        return open_()
    except M2IBError as error:
        layout = recognise(Path(path).expanduser())
        if layout is None or layout.source == name:
            raise
        raise M2IBError(
            f"data.name={name} does not read data.path={path!r}: it is {layout.description}: "
            f"data.name={layout.source} reads it. ({error})"
        ) from error
