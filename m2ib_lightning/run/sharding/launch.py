"""A launch: one start of a run on some number of ranks, and which of them are at work, finished, or dead.

A run directory sees a launch after another (``resume``). A launch has a number, which is in the names of the parts it
writes; each of its ranks holds a lock on a file while it lives, which the system lets go whatever ends the process, and
leaves a file when it has finished.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write_text

try:
    import fcntl
except ImportError:  # not on Windows: there, nobody can tell who is at work
    fcntl = None  # type: ignore[assignment]

State = Literal["finished", "at work", "lost", "unknown"]
"""Unknown: the file system has no locks."""


@dataclass(frozen=True)
class Launch:
    """One start of a run.

    Args:
        folder: ``launches/<number>`` in the run directory.
        world_size: its number of ranks.
        total: pairs of the whole run; None if that is not known before the end.
    """

    folder: Path
    world_size: int
    total: int | None

    @property
    def number(self) -> int:
        """From 1."""
        return int(self.folder.name)

    @property
    def facts(self) -> Path:
        """What is known of it."""
        return self.folder / "launch.json"

    @property
    def remaining(self) -> Path:
        """The positions that this launch is to do, where they are not all."""
        return self.folder / "remaining.npy"

    @property
    def to_do(self) -> int | None:
        """How many pairs had no row when it began; None if that is not known."""
        return len(np.load(self.remaining, mmap_mode="r")) if self.remaining.exists() else self.total

    @contextmanager
    def lock(self, rank: int) -> Iterator[None]:
        """Hold the rank's lock inside; the system lets go of it whatever ends the process.

        Raises:
            M2IBError: if a process has been this rank of this launch before.
        """
        try:
            opened = self._lock(rank).open("x")
        except FileExistsError:
            raise M2IBError(
                f"rank {rank} of start {self.number} of {str(self.folder.parent.parent)!r} is there already: two "
                "processes have the same rank (is trainer.devices the same on every node?), or one was started again"
            ) from None
        with opened as lock:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks; nobody else has this file to write
                    fcntl.lockf(lock, fcntl.LOCK_EX)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def is_last(self) -> bool:
        """Whether no start of the run came after it."""
        return _last_number(self.folder.parent) <= self.number

    def finish(self, rank: int) -> None:
        """Say that the rank has written all it will."""
        atomic_write_text(self._finished(rank), "")

    def state(self, rank: int) -> State:
        """How another rank is."""
        if self._finished(rank).exists():
            return "finished"
        locked = _is_locked(self._lock(rank))
        return "unknown" if locked is None else "at work" if locked else "lost"

    def others(self, rank: int) -> dict[int, State]:
        """How all the others are."""
        return {other: self.state(other) for other in range(self.world_size) if other != rank}

    def at_work(self, rank: int) -> bool:
        """Whether any of the others has not finished yet, or may not have."""
        return not {"at work", "unknown"}.isdisjoint(self.others(rank).values())

    def _lock(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.lock"

    def _finished(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.finished"


def begin_launch(launches: Path, world_size: int, total: int | None, written: int = 0) -> Launch:
    """The next launch, made by rank 0.

    Args:
        launches: the run's folder of them.
        world_size: its number of ranks.
        total: pairs of the whole run; None if that is not known.
        written: the last launch that wrote rows; its folder may have been removed.

    Raises:
        M2IBError: if another process began one at the same time.
    """
    launches.mkdir(exist_ok=True)
    folder = launches / f"{max(_last_number(launches), written) + 1:04d}"
    try:
        folder.mkdir()
    except FileExistsError:
        raise M2IBError(f"another process has just started this run ({launches.parent})") from None
    launch = Launch(folder, world_size, total)
    atomic_write_text(launch.facts, json.dumps({"world_size": world_size, "total": total}))
    return launch


def _last_number(launches: Path) -> int:
    return max((int(folder.name) for folder in launches.iterdir() if folder.name.isdigit()), default=0)


def open_launch(folder: Path) -> Launch:
    """A launch that is there."""
    facts = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    return Launch(folder, facts["world_size"], facts["total"])


def ranks_at_work(launches: Path, but: Launch | None = None) -> list[Path]:
    """The locks of processes that live and work on a run, without those of one launch; each says who holds it."""
    locks = [lock for lock in sorted(launches.glob("*/rank-*.lock")) if but is None or lock.parent != but.folder]
    return [lock for lock in locks if _is_locked(lock)]


def _is_locked(lock: Path) -> bool | None:
    """Whether another process holds the lock; None if there are no locks here.

    Never ask for one's own: closing the file would let go of it.
    """
    if not lock.exists():
        return False
    if fcntl is None:
        return None
    with lock.open() as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask do not meet each other
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return None
    return False
