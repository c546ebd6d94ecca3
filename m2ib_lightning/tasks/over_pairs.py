"""The run that all tasks over pairs share: the start of the ranks, the signals, the work, and the merge at the end."""

from __future__ import annotations

import os
import signal
import sys
from abc import ABC, abstractmethod
from functools import partial
from typing import ClassVar

import torch
from lightning import Callback, LightningModule, Trainer

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule
from m2ib_lightning.encoder.suffix import describe_blocks
from m2ib_lightning.errors import INCOMPLETE, escaped
from m2ib_lightning.files import read_yaml
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.models.load import BUNDLED
from m2ib_lightning.pairs.pair import PairStream
from m2ib_lightning.run.callbacks import PairProgressBar, PairProgressLines
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.loggers import curve_places, log_final_values, logger_names, make_loggers
from m2ib_lightning.run.merging import merge
from m2ib_lightning.run.outcome import count_of, print_outcome
from m2ib_lightning.run.pages.run_report import write_report
from m2ib_lightning.run.precision import speed_on_cpu
from m2ib_lightning.run.sharding import Rendezvous, SamplesLauncher, StopSignals, requeue
from m2ib_lightning.run.summary import Summary
from m2ib_lightning.tasks.failures import explained_failures
from m2ib_lightning.tasks.pairs_start import PairsStart, begin_over_pairs, join_over_pairs
from m2ib_lightning.tasks.quiet import quiet_lightning
from m2ib_lightning.tasks.run_start import start_together
from m2ib_lightning.tasks.trainer_arguments import trainer_arguments
from m2ib_lightning.tasks.work import Work
from m2ib_lightning.tasks.world import World, check_world


class PairTask(ABC):
    """Base class of tasks that write one row per pair."""

    rows: ClassVar[str] = "attributions"
    """Name of the table's folder."""

    activity: ClassVar[str] = "Explaining"
    """Label of the progress bar."""

    logged: ClassVar[tuple[str, ...]] = ("pairs_done", "pairs_failed", "pairs_per_second", "seconds", "mean_")
    """Beginnings of the names in the summary whose numbers the loggers get."""

    @abstractmethod
    def bottlenecks(self, work: Work) -> list[BottleneckSettings]:
        """Check the task's options, and return the settings of the bottlenecks that it will optimise.

        Raises:
            M2IBError: if an option is wrong.
        """

    @abstractmethod
    def module(self, work: Work, start: PairsStart) -> LightningModule:
        """Return the module whose ``training_step`` returns ``{"results": [...]}``, one result per pair."""

    @abstractmethod
    def writers(self, work: Work, start: PairsStart) -> list[Callback]:
        """Return the callbacks that write the results; a ``TableWriter`` is among them."""

    def report(self, config: Config, run: RunDirectory, summary: Summary) -> None:
        """Write the report of a run whose table is complete."""
        write_report(run, summary)

    def findings(self) -> tuple[dict[str, float], dict[str, str]]:
        """Return numbers and texts in Markdown, by tag, that the loggers get besides the summary, after ``report``."""
        return {}, {}


def run_over_pairs(config: Config, task: PairTask) -> int:
    """Run a task over every pair of the data source, or over this rank's share of them.

    Mistakes that can be found before the work starts are raised before the run directory is created.

    Returns:
        The exit status: 0 on success; 1 if every pair failed; 3 if pairs are missing because a rank died; 128 plus the
        number of the signal that stopped the run.

    Raises:
        M2IBError: if the command or its input is wrong, or a file cannot be read or written.
    """
    with explained_failures("Finished rows are"):
        return _run(config, task, StopSignals())


def _run(config: Config, task: PairTask, stop: StopSignals) -> int:
    with quiet_lightning(), stop.watching():
        arguments, world = trainer_arguments(config.trainer)
        check_world(config, world)
        with Rendezvous(world.meeting_place, world.rank, world.listeners, stop.exit_if_received) as rendezvous:
            work = Work.prepare(config)
            bottlenecks = task.bottlenecks(work)
            stop.exit_if_received()
            start = start_together(
                rendezvous,
                world.rank,
                lambda: begin_over_pairs(work, world, task.rows, bottlenecks),
                lambda message: join_over_pairs(work, world, message, task.rows),
            )
            if world.rank > 0:
                rendezvous.confirm()
        names = logger_names(config.trainer.get("logger"))
        trainer = Trainer(
            **arguments,
            logger=make_loggers(names, start.run.path, start.launch.folder.name, world.rank),
            callbacks=[*task.writers(work, start), *_progress(config, task, start), stop],
        )
        if world.rank == 0:
            _print_start(trainer, work, start)
        stop.launcher = trainer.strategy.launcher
        with start.lock:
            try:
                signum = _fit(trainer, task.module(work, start), work.datamodule, start, stop)
            except BaseException as error:
                start.lock.close()  # the last rank at work sees that this one is lost, and merges
                if world.size > 1:  # printed now, because this rank then waits for its child processes
                    print(escaped(f"rank {world.rank} stops: {error}"), file=sys.stderr, flush=True)
                if world.rank == 0:  # a rank that comes late must learn which run this is, for its own pairs
                    rendezvous.wait_for_confirmations(20.0)
                raise
            finally:
                interrupted = _wait(trainer)
            signum = signum or interrupted or stop.received or 0  # a signal may come during the wait
            if world.rank == 0:
                rendezvous.wait_for_confirmations(10.0 if signum else 60.0)
            start.launch.finish(world.rank)
            summary = _merge(task, start, work, world, stop, stopped=bool(signum))
            if summary is not None:
                _log_end(trainer, task, start, summary)
    if signum and (summary is None or summary.skipped != 0):
        return 128 + signum
    if summary is None:
        return 0
    missing = summary.skipped or (summary.lost and summary.skipped is None)
    return INCOMPLETE if missing else 0 if summary.counts.done else 1


def _fit(
    trainer: Trainer, module: LightningModule, datamodule: PairDataModule, start: PairsStart, stop: StopSignals
) -> int:
    """Explain the pairs; return the signal that stopped the run, or 0."""
    if stop.received is not None:  # before any work: child processes are not started either
        return stop.received
    launcher = trainer.strategy.launcher
    if isinstance(launcher, SamplesLauncher):
        launcher.child_environment = start.environment
        launcher.on_started = stop.pass_on
    try:
        trainer.fit(module, datamodule=datamodule)
    except SystemExit:  # Lightning's answer to Ctrl-C and to SIGTERM
        return stop.received or signal.SIGINT
    return stop.received or 0


def _wait(trainer: Trainer) -> int:
    """Wait for the child processes to end; return the signal of Ctrl-C, or 0."""
    launcher = trainer.strategy.launcher
    if isinstance(launcher, SamplesLauncher):
        try:
            launcher.wait()
        except KeyboardInterrupt:
            launcher.kill(signal.SIGKILL)
            return signal.SIGINT
    return 0


def _merge(
    task: PairTask, start: PairsStart, work: Work, world: World, stop: StopSignals, stopped: bool
) -> Summary | None:
    """Merge the ranks' parts on the last rank at work, and print the outcome."""
    if start.launch.others_at_work(world.rank):
        if not world.is_child:
            print(f"rank {world.rank} has finished; the last rank to finish writes summary.json", flush=True)
        return None

    def requeue_unless_done(counted: Summary) -> None:
        if stop.by_slurm and counted.skipped != 0:
            requeue(os.environ["SLURM_JOB_ID"], start.launch.folder / "requeued")

    report = partial(task.report, work.config)
    source, total = work.datamodule.source, work.datamodule.total
    summary = merge(start.run, start.launch, world.rank, source, total, report, requeue_unless_done)
    names = logger_names(work.config.trainer.get("logger"))
    print_outcome(start.run, summary, stopped, curve_places(names, start.run.path, start.launch.folder.name))
    return summary


def _log_end(trainer: Trainer, task: PairTask, start: PairsStart, summary: Summary) -> None:
    """Log the settings and the numbers of the whole run."""
    logged = summary.to_dict().items()
    numbers = {f"summary/{name}": value for name, value in logged if name.startswith(task.logged)}
    more, texts = task.findings()
    config, rank, done = read_yaml(start.run.config), trainer.global_rank, summary.counts.rows
    log_final_values(trainer.loggers, config, numbers | more, done, texts=texts, rank=rank)


def _print_start(trainer: Trainer, work: Work, start: PairsStart) -> None:
    _mention_slow_precision(trainer)
    _mention_toy_model(work)
    _mention_own_blocks(work)
    ranks = f" on {start.launch.world_size} ranks" if start.launch.world_size > 1 else ""
    total, to_do = start.launch.total, start.launch.to_do
    before = start.done if total is None or to_do is None else total - to_do  # the table may go beyond data.limit
    done = f", {before} of them done before" if before else ""
    print(
        f"{_describe(work.datamodule)}{ranks}{done}, model {work.config.model.name}, run directory {start.run.path}",
        flush=True,
    )


def _describe(datamodule: PairDataModule) -> str:
    if isinstance(datamodule.source, PairStream):
        return f"the pairs of {count_of(len(datamodule.source.names), 'shard')}"
    note = getattr(datamodule.source, "note", "")
    return f"{len(datamodule)} pairs{f' ({note})' if note else ''}"


def _mention_toy_model(work: Work) -> None:
    """Print a note where the bundled model, which knows synthetic scenes only, explains pictures of the user."""
    if work.config.model.name in BUNDLED and work.config.data.path is not None:
        print(
            f"note: model.name={work.config.model.name} is the bundled toy model, which knows synthetic scenes of "
            "coloured shapes and nothing else; model.name=FOLDER_OR_HUB_ID names yours",
            file=sys.stderr,
        )


def _mention_own_blocks(work: Work) -> None:
    """Print a note for each tower whose blocks are not fused."""
    for modality, tower in work.model.encoder.towers.items():
        layer = work.settings.tower(modality).layer
        kind = describe_blocks(tower, -1 if layer is None else layer)
        if kind != "fused":
            print(f"note: the {modality} blocks are {kind}, which take longer than fused ones", file=sys.stderr)


def _mention_slow_precision(trainer: Trainer) -> None:
    """Print a note where a CPU computes more slowly in half precision than in float32."""
    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if trainer.strategy.root_device.type == "cpu" and trainer.precision in types:
        speed = speed_on_cpu(types[trainer.precision])
        if speed < 0.8:  # a smaller loss of speed may be noise
            print(
                f"note: on this processor matrix products are {1 / speed:.1f} times slower in {trainer.precision} "
                "than in float32; trainer.precision=32-true would be faster",
                file=sys.stderr,
            )


def _progress(config: Config, task: PairTask, start: PairsStart) -> list[Callback]:
    """Return a bar for a terminal, or lines for a log file."""
    if not config.trainer.get("enable_progress_bar", True):
        return []
    if sys.stdout.isatty():
        return [PairProgressBar(task.activity)]
    ranks, to_do = start.launch.world_size, start.launch.to_do
    return [PairProgressLines(task.activity, None if to_do is None else -(-to_do // ranks), ranks)]
