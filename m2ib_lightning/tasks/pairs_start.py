"""The start of a task over pairs: the launch that begins, and the pairs that remain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from typing_extensions import override

from m2ib_lightning.datamodules.base import PairDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write, atomic_write_text
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.pairs.pair import PairSource, PairStream
from m2ib_lightning.pairs.waiting import WAITING
from m2ib_lightning.run.changed_pairs import find_changed, save_states
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.done_rows import done_keys, remaining_positions
from m2ib_lightning.run.resume import recover_parts, remove_rows
from m2ib_lightning.run.sharding import Launch
from m2ib_lightning.run.summary import count_rows, last_launch
from m2ib_lightning.tasks.priors import saved_priors
from m2ib_lightning.tasks.run_start import RunStart, await_file, begin_locked_launch, join_locked_launch, open_run
from m2ib_lightning.tasks.work import Work
from m2ib_lightning.tasks.world import World


@dataclass(frozen=True)
class PairsStart(RunStart):
    """The start of a task over pairs, on one rank.

    Attributes:
        done: number of rows that earlier launches wrote; 0 on ranks other than 0.
    """

    done: int = 0

    @property
    @override
    def message(self) -> dict[str, str]:
        last = self.launch.remaining if self.launch.remaining.exists() else self.launch.facts
        return {"run": str(self.run.path), "launch": self.launch.folder.name, "last": last.name}


def begin_over_pairs(work: Work, world: World, folder: str, bottlenecks: Sequence[BottleneckSettings]) -> PairsStart:
    """Open the run directory on rank 0, and begin a launch for the pairs that remain.

    Args:
        work: the model, the settings and the pairs.
        world: the ranks.
        folder: name of the table's folder.
        bottlenecks: the bottlenecks whose priors are needed.

    Raises:
        M2IBError: if the directory holds a run that must not or cannot be resumed.
    """
    config, source = work.config, work.datamodule.source
    opened = open_run(work, world, folder, bottlenecks)
    run = opened.run
    launch, lock = begin_locked_launch(run, world.size, work.datamodule.total, last_launch(run.table))
    atomic_write_text(run.config, opened.resolved)
    run.summary.unlink(missing_ok=True)  # the summary of an earlier launch is wrong until this one ends
    recover_parts(run, config.retry_failed, None if config.data.limit is None else work.datamodule.keys)
    _redo_changed(source, run, config.data.limit, truth=config.task == "evaluate")
    done = count_rows(run)
    if done and not isinstance(source, PairStream):
        positions = remaining_positions(source, len(work.datamodule), done_keys(run.table))
        with atomic_write(launch.remaining) as file:
            np.save(file, np.fromiter(positions, np.int64))
    _leave_out_done(work.datamodule, run, launch)
    return PairsStart(run, opened.statistics, launch, lock, done)


def join_over_pairs(work: Work, world: World, message: dict[str, str], folder: str) -> PairsStart:
    """Join, on a rank other than 0, the launch that rank 0 began.

    Args:
        work: the model, the settings and the pairs.
        world: the ranks.
        message: the message of rank 0.
        folder: name of the table's folder.

    Raises:
        M2IBError: if this rank can't see the run directory, or disagrees with rank 0 on the ranks or the pairs.
    """
    run = RunDirectory(Path(message["run"]), folder)
    await_file(run.launches / message["launch"] / message["last"], run, work.config.output_dir)
    launch, lock = join_locked_launch(run, message["launch"], world.rank, world.size)
    if work.datamodule.total != launch.total:
        raise M2IBError(
            f"rank 0 sees {launch.total} pairs in the data source and this rank {work.datamodule.total}: the source "
            "must be the same on every node"
        )
    statistics = saved_priors(work, run)
    _leave_out_done(work.datamodule, run, launch)
    return PairsStart(run, statistics, launch, lock)


def _redo_changed(source: PairSource | PairStream, run: RunDirectory, limit: int | None, *, truth: bool) -> None:
    """Remove the rows of pairs that changed in the source, or left it, and say which."""
    with WAITING:  # the source is read for it
        changed = find_changed(source, run.table, run.states, limit, truth=truth)
    if changed:
        print(changed, flush=True)
        remove_rows(run, [*changed.changed, *changed.gone])
    if limit is None or not run.states.exists():  # a later start compares the pairs beyond the limit
        save_states(source, run.states)


def _leave_out_done(datamodule: PairDataModule, run: RunDirectory, launch: Launch) -> None:
    """Make the data module leave out the pairs that have a row."""
    if launch.remaining.exists():
        datamodule.positions = np.load(launch.remaining, mmap_mode="r")
    datamodule.finished = run.table
