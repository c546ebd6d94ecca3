"""A launch: one start of a run on a number of ranks, and the state of each rank.

Each resume adds a launch to the run directory. The parts that a launch writes have its number in their names. Each rank
locks a file while it lives. The operating system releases the lock however the process ends. A rank that has finished
writes a second file.
"""

from __future__ import annotations

import json
import os
import shutil
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
except ImportError:  # Windows has no fcntl: the state of other ranks is unknown there
    fcntl = None  # type: ignore[assignment]

State = Literal["finished", "at work", "lost", "unknown"]
"""State of a rank; ``unknown`` on a file system without locks."""


@dataclass(frozen=True)
class Launch:
    """One start of a run on a number of ranks.

    Args:
        folder: ``launches/<number>`` in the run directory.
        world_size: number of ranks.
        total: number of pairs of the whole run; None if unknown before the end.
    """

    folder: Path
    world_size: int
    total: int | None

    @property
    def number(self) -> int:
        """Number of the launch, from 1."""
        return int(self.folder.name)

    @property
    def facts(self) -> Path:
        """Path of ``launch.json``: the number of ranks and the number of pairs."""
        return self.folder / "launch.json"

    @property
    def remaining(self) -> Path:
        """Path of the positions of the remaining pairs; the file does not exist if all pairs remain."""
        return self.folder / "remaining.npy"

    @property
    def to_do(self) -> int | None:
        """Number of pairs without a row when the launch began; None if unknown."""
        return len(np.load(self.remaining, mmap_mode="r")) if self.remaining.exists() else self.total

    @contextmanager
    def lock(self, rank: int) -> Iterator[None]:
        """Context that holds the lock of a rank; the operating system releases it however the process ends.

        Raises:
            M2IBError: if another process has already locked this rank of this launch.
        """
        try:
            file = self._lock(rank).open("x")
        except FileExistsError:
            raise M2IBError(
                f"rank {rank} of launch {self.number} of {str(self.folder.parent.parent)!r} exists already: two "
                "processes have the same rank (is trainer.devices the same on every node?), or one was restarted"
            ) from None
        with file as lock:
            if fcntl is not None:
                with suppress(OSError):  # a file system without locks; no other process writes this file
                    fcntl.lockf(lock, fcntl.LOCK_EX)
            lock.write(f"process {os.getpid()} on {socket.gethostname()}")
            lock.flush()
            yield

    def is_last(self) -> bool:
        """Whether no later launch of the run exists."""
        return _last_number(self.folder.parent) <= self.number

    def finish(self, rank: int) -> None:
        """Mark a rank as finished; it must write no more rows."""
        atomic_write_text(self._finished(rank), "")

    def remove(self) -> None:
        """Remove the launch, which has not begun its work."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def state(self, rank: int) -> State:
        """Return the state of another rank.

        A process must not ask for the state of its own rank, because that would release its lock.
        """
        if self._finished(rank).exists():
            return "finished"
        locked = _is_locked(self._lock(rank))
        return "unknown" if locked is None else "at work" if locked else "lost"

    def others(self, rank: int) -> dict[int, State]:
        """Return the states of all ranks other than ``rank``."""
        return {other: self.state(other) for other in range(self.world_size) if other != rank}

    def others_at_work(self, rank: int) -> bool:
        """Whether a rank other than ``rank`` is still at work, or its state is unknown."""
        return not {"at work", "unknown"}.isdisjoint(self.others(rank).values())

    def _lock(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.lock"

    def _finished(self, rank: int) -> Path:
        return self.folder / f"rank-{rank:05d}.finished"


def begin_launch(launches: Path, world_size: int, total: int | None, written: int = 0) -> Launch:
    """Create the next launch of a run; called by rank 0.

    Args:
        launches: the run's folder of launches.
        world_size: number of ranks.
        total: number of pairs of the whole run; None if unknown.
        written: number of the last launch that wrote rows, whose folder may have been removed.

    Raises:
        M2IBError: if another process creates a launch at the same time.
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
    """Return an existing launch; called by the ranks other than 0."""
    facts = json.loads((folder / "launch.json").read_text(encoding="utf-8"))
    return Launch(folder, facts["world_size"], facts["total"])


def last_launch_of(launches: Path) -> Launch | None:
    """Return the last launch in a run's folder of launches; None if there is none that can be read."""
    try:
        return open_launch(launches / f"{_last_number(launches):04d}")
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ranks_at_work(launches: Path, excluded: Launch | None = None) -> list[Path]:
    """Return the lock files that live processes hold for a run; each file names its process.

    Args:
        launches: the run's folder of launches.
        excluded: launch of the caller, which is left out; None to leave out none.
    """
    locks = sorted(launches.glob("*/rank-*.lock"))
    return [lock for lock in locks if (excluded is None or lock.parent != excluded.folder) and _is_locked(lock)]


def _is_locked(lock: Path) -> bool | None:
    """Whether another process holds a lock; None if the platform or the file system has no locks.

    A process must not ask for its own lock, because closing the file would release it.
    """
    if not lock.exists():
        return False
    if fcntl is None:
        return None
    try:
        file = lock.open()
    except FileNotFoundError:  # a start that gave way has just removed it
        return False
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask do not block each other
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return None
    return False
