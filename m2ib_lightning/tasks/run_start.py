"""The start that all tasks share: rank 0 opens the run directory, and the other ranks join."""

from __future__ import annotations

import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.run.directory import RunDirectory, open_run_directory
from m2ib_lightning.run.resolved_config import resolved_yaml
from m2ib_lightning.run.resume import check_same_run
from m2ib_lightning.run.sharding import Launch, Rendezvous, begin_launch, open_launch, ranks_at_work
from m2ib_lightning.run.sharding.rendezvous import LAUNCH_VARIABLE
from m2ib_lightning.tasks.priors import measured_priors, statistics_hash
from m2ib_lightning.tasks.work import Work
from m2ib_lightning.tasks.world import World

_DYING_SECONDS = 5.0
"""Seconds that a killed process may take to disappear."""

_VISIBLE_SECONDS = 60.0
"""Seconds within which a file of rank 0 must become visible on another node."""


@dataclass(frozen=True)
class RunStart(ABC):
    """The start of a run, on one rank.

    Attributes:
        run: the run directory.
        statistics: every prior that the run needs.
        launch: the launch that begins.
        lock: the rank's lock; closing it releases the rank.
    """

    run: RunDirectory
    statistics: Statistics
    launch: Launch
    lock: ExitStack

    @property
    @abstractmethod
    def message(self) -> dict[str, str]:
        """Message that rank 0 sends to the other ranks."""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variable that gives the message to child processes."""
        return {LAUNCH_VARIABLE: json.dumps(self.message)}

    @contextmanager
    def handed_to_children(self) -> Iterator[None]:
        """Context in which new child processes find the message in their environment."""
        before = os.environ.get(LAUNCH_VARIABLE)
        os.environ.update(self.environment)
        try:
            yield
        finally:
            del os.environ[LAUNCH_VARIABLE]
            if before is not None:
                os.environ[LAUNCH_VARIABLE] = before


Start = TypeVar("Start", bound=RunStart)


def start_together(
    rendezvous: Rendezvous, rank: int, begin: Callable[[], Start], join: Callable[[dict[str, str]], Start]
) -> Start:
    """Begin on rank 0, or join with its message on another rank; return the start of this rank.

    Args:
        rendezvous: the rendezvous of the ranks.
        rank: rank of this process.
        begin: function that begins the run on rank 0.
        join: function that joins the run on another rank, with the message of rank 0.
    """
    if rank > 0:
        return join(rendezvous.receive())
    start = begin()
    rendezvous.send(start.message)
    return start


@dataclass(frozen=True)
class OpenedRun:
    """A run directory that rank 0 has created, or reopened to resume its run.

    Attributes:
        run: the run directory.
        resumed: whether the directory held a run, which is resumed.
        statistics: every prior that the run needs.
        resolved: the text of its ``config.yaml``.
    """

    run: RunDirectory
    resumed: bool
    statistics: Statistics
    resolved: str


def open_run(
    work: Work,
    world: World,
    folder: str,
    bottlenecks: Sequence[BottleneckSettings],
    holds_work: Callable[[RunDirectory], bool] = lambda run: True,
) -> OpenedRun:
    """Create or reopen the run directory, and measure the priors that are missing.

    Args:
        work: the model, the settings and the pairs.
        world: the ranks.
        folder: name of the subfolder that the task writes to.
        bottlenecks: the bottlenecks whose priors are needed.
        holds_work: function that returns whether an existing run has any work in it; one without is begun anew, with
            any configuration.

    Raises:
        M2IBError: if the directory holds a run that must not or cannot be resumed.
    """
    config = work.config
    run, resumed = open_run_directory(config.output_dir, config.resume, folder)
    refuse_second_start(run)
    resumed = resumed and holds_work(run)
    try:
        statistics = measured_priors(work, run, world.device, bottlenecks, resumed=resumed)
    except BaseException:
        run.remove_if_empty()  # so that the corrected command can use the same name
        raise
    resolved = resolved_yaml(config, work.settings.to_dict(), statistics_hash(statistics, bottlenecks))
    if resumed:
        check_same_run(run, resolved)
    return OpenedRun(run, resumed, statistics, resolved)


def begin_locked_launch(run: RunDirectory, ranks: int, total: int | None, written: int = 0) -> tuple[Launch, ExitStack]:
    """Begin the next launch of a run on rank 0, and lock it against a second start.

    Args:
        run: the run directory.
        ranks: number of ranks.
        total: number of pairs of the whole run; None if unknown.
        written: number of the last launch that wrote rows.

    Returns:
        The launch, and the lock of rank 0.

    Raises:
        M2IBError: if another start is at work. Of several starts at once, one passes.
    """
    launch = begin_launch(run.launches, ranks, total, written)
    lock = ExitStack()
    try:
        lock.enter_context(launch.lock(0))
        refuse_second_start(run, launch)  # again: of two starts at once, at least one sees the other's lock
    except BaseException:
        launch.remove()  # before the lock is released: the ranks of another start must not take it for a later one
        lock.close()
        raise
    return launch, lock


def join_locked_launch(run: RunDirectory, number: str, rank: int, ranks: int) -> tuple[Launch, ExitStack]:
    """Join the launch that rank 0 began, on another rank.

    Args:
        run: the run directory.
        number: name of the launch's folder.
        rank: rank of this process.
        ranks: number of ranks that this process knows.

    Returns:
        The launch, and the lock of this rank.

    Raises:
        M2IBError: if this rank disagrees with rank 0 on the number of ranks, or the launch is over.
    """
    launch = open_launch(run.launches / number)
    if launch.world_size != ranks:
        raise M2IBError(
            f"rank 0 knows {launch.world_size} ranks and this one {ranks}: give the same trainer.devices and "
            "trainer.num_nodes on every node"
        )
    lock = ExitStack()
    lock.enter_context(launch.lock(rank))  # before the check: a start that comes now sees the lock
    if not launch.is_last():
        lock.close()
        raise M2IBError(f"start {launch.number} of {str(run.path)!r} is over: another has begun since")
    return launch, lock


def refuse_second_start(run: RunDirectory, launch: Launch | None = None) -> None:
    """Refuse to start while another start of the same run is at work.

    Of two starts at once the one with the later launch gives way. The other waits for that.

    Args:
        run: the run directory.
        launch: launch of this start, whose locks do not count; None if it has none yet.

    Raises:
        M2IBError: if another start holds a lock; names the lock.
    """
    began = time.monotonic()
    while busy := ranks_at_work(run.launches, launch):
        earlier = launch is None or any(int(lock.parent.name) < launch.number for lock in busy)
        if time.monotonic() - began >= (_DYING_SECONDS if earlier else 3 * _DYING_SECONDS):
            break
        time.sleep(0.1)
    if busy:
        who = "; ".join(lock.read_text(encoding="utf-8") for lock in busy)
        locks = ", ".join(str(lock.relative_to(run.path)) for lock in busy)
        raise M2IBError(
            f"{str(run.path)!r}: an earlier start of this run is still at work ({who}). If you are sure that no such "
            f"process lives (a network file system may keep the lock of a node that is lost), remove {locks} there"
        )


def await_file(file: Path, run: RunDirectory, output_dir: str | None) -> None:
    """Wait until this rank sees a file that rank 0 wrote.

    Args:
        file: the last file that rank 0 wrote.
        run: rank 0's run directory.
        output_dir: ``output_dir`` in the configuration of this rank.

    Raises:
        M2IBError: if the file does not appear, or ``output_dir`` is another directory.
    """
    end = time.monotonic() + _VISIBLE_SECONDS
    while not file.exists():  # network file systems may show it late
        if time.monotonic() > end:
            raise M2IBError(
                f"rank 0 began in {str(run.path)!r}, which is not seen from here: output_dir must be shared"
            )
        time.sleep(0.2)
    if output_dir is None:
        return
    path = Path(output_dir).expanduser()
    if not (path.exists() and path.samefile(run.path)):
        raise M2IBError(
            f"rank 0 of another run answered: it writes to {str(run.path)!r}, this one to {output_dir!r}. Set "
            "MASTER_PORT to a port of this run's own"
        )
