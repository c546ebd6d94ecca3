"""The start of a task: rank 0 makes or opens the run directory, the others learn where it is."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from m2ib_lightning.config import MODALITIES, Config, DataConfig, resolved_yaml
from m2ib_lightning.datamodules.base import DATAMODULES, PairDataModule
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write, atomic_write_text
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, calibrate, needed
from m2ib_lightning.methods import Context
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.pairs.pair import PairStream
from m2ib_lightning.pairs.urls import UrlSettings
from m2ib_lightning.run.directory import RunDirectory, open_run_directory
from m2ib_lightning.run.done_rows import done_keys, remaining_positions
from m2ib_lightning.run.resume import check_same_run, recover_parts
from m2ib_lightning.run.sharding import Launch, begin_launch, open_launch, ranks_at_work
from m2ib_lightning.run.sharding.rendezvous import LAUNCH_VARIABLE
from m2ib_lightning.run.summary import count_rows, last_launch
from m2ib_lightning.tasks.trainer_arguments import World

_LAST_BREATH = 5.0
"""Seconds in which a process that was killed is gone."""

_PATIENCE = 60.0
"""Seconds in which what rank 0 wrote must be seen from another node."""


@dataclass(frozen=True)
class Work:
    """What every rank makes of the configuration, checked.

    Attributes:
        config: as given.
        model: loaded.
        settings: resolved for it.
        datamodule: with its source open.
        known: the priors that the model's folder or ``bottleneck.statistics`` has.
    """

    config: Config
    model: LoadedModel
    settings: BottleneckSettings
    datamodule: PairDataModule
    known: Statistics

    @staticmethod
    def prepare(config: Config) -> Work:
        """Load and check.

        Raises:
            M2IBError: for whatever is wrong.
        """
        datamodule_type = DATAMODULES.get(config.data.name)
        model = load_model(config.model.name)
        settings = resolve(_settings(config, model), model.encoder)
        data = config.data
        preparer = model.preparer.with_options(fit=data.fit, image_timeout=data.image_timeout, urls=_urls(data))
        datamodule = datamodule_type.from_config(config, preparer)
        datamodule.setup("fit")
        given = config.bottleneck.statistics
        known = model.statistics if given is None else model.statistics.updated(Statistics.load(given))
        return Work(config, model, settings, datamodule, known)

    def context(self, statistics: Statistics | None = None) -> Context:
        """What attribution methods work with; without the priors that are still to be measured, unless given."""
        known = self.known if statistics is None else statistics
        return Context(self.model, self.settings, known, seed=self.config.seed, compile=self.config.model.compile)


@dataclass(frozen=True)
class Start:
    """One rank's start.

    Attributes:
        run: the run directory.
        launch: which start of the run this is.
        statistics: every prior that is needed.
        held: the rank's lock; closing it lets go.
        done: pairs that earlier launches wrote rows for.
    """

    run: RunDirectory
    launch: Launch
    statistics: Statistics
    held: ExitStack
    done: int = 0

    @property
    def message(self) -> dict[str, str]:
        """What the other ranks have to know, and which file they must see before they begin."""
        last = self.launch.remaining if self.launch.remaining.exists() else self.launch.facts
        return {"run": str(self.run.path), "launch": self.launch.folder.name, "last": last.name}

    @property
    def environment(self) -> dict[str, str]:
        """The message, for the processes that this one starts."""
        return {LAUNCH_VARIABLE: json.dumps(self.message)}


def begin(work: Work, world: World, rows: str, priors: Sequence[BottleneckSettings]) -> Start:
    """Rank 0: make the run directory, or open that of a run to continue.

    Args:
        work: what is to be done.
        world: on how many ranks.
        rows: the name of the table's folder.
        priors: the bottlenecks whose priors are to be there.

    Raises:
        M2IBError: if it holds a run and is not to be continued, or can't be.
    """
    config = work.config
    run, resumed = open_run_directory(config.output_dir, config.resume, rows)
    _refuse_company(run)
    try:
        statistics = _statistics(work, run, world.device, priors)
    except BaseException:
        run.remove_if_empty()  # a run that did not begin burns no name
        raise
    resolved = resolved_yaml(config, work.settings.to_dict(), hash_of(statistics, priors))
    if resumed:
        check_same_run(run, resolved)
    launch = begin_launch(run.launches, world.size, work.datamodule.total, last_launch(run.table))
    held = ExitStack()
    held.enter_context(launch.lock(world.rank))
    _refuse_company(run, launch)  # again: of two that start at once, at least one sees the other's lock
    atomic_write_text(run.config, resolved)
    run.summary.unlink(missing_ok=True)  # of an earlier launch: it will be wrong, and right again at the end
    recover_parts(run, config.retry_failed, None if config.data.limit is None else work.datamodule.keys)
    done = count_rows(run)
    source = work.datamodule.source
    if done and not isinstance(source, PairStream):
        positions = remaining_positions(source, len(work.datamodule), done_keys(run.table))
        with atomic_write(launch.remaining) as file:
            np.save(file, np.fromiter(positions, np.int64))
    _share(work.datamodule, run, launch)
    return Start(run, launch, statistics, held, done)


def _refuse_company(run: RunDirectory, launch: Launch | None = None) -> None:
    end = time.monotonic() + _LAST_BREATH
    while (busy := ranks_at_work(run.launches, launch)) and time.monotonic() < end:
        time.sleep(0.1)
    if busy:
        who = "; ".join(lock.read_text(encoding="utf-8") for lock in busy)
        locks = ", ".join(str(lock.relative_to(run.path)) for lock in busy)
        raise M2IBError(
            f"{str(run.path)!r}: an earlier start of this run is still at work ({who}). If you are sure that no such "
            f"process lives (a network file system may keep the lock of a node that is lost), remove {locks} there"
        )


def join(work: Work, world: World, message: dict[str, str], rows: str) -> Start:
    """The other ranks: open what rank 0 made; ``rows`` is the name of the table's folder.

    Raises:
        M2IBError: if it can't be seen from here.
    """
    run = RunDirectory(Path(message["run"]), rows)
    folder = run.launches / message["launch"]
    await_file(folder / message["last"], run, work.config.output_dir)
    launch = open_launch(folder)
    if launch.world_size != world.size:
        raise M2IBError(
            f"rank 0 knows {launch.world_size} ranks and this one {world.size}: give the same trainer.devices and "
            "trainer.num_nodes on every node"
        )
    held = ExitStack()
    held.enter_context(launch.lock(world.rank))  # before it looks: a start that comes now sees the lock
    if not launch.is_last():
        raise M2IBError(f"start {launch.number} of {str(run.path)!r} is over: another has begun since")
    if work.datamodule.total != launch.total:
        raise M2IBError(
            f"rank 0 sees {launch.total} pairs in the data source and this rank {work.datamodule.total}: the source "
            "must be the same on every node"
        )
    statistics = work.known.updated(Statistics.load(run.statistics)) if run.statistics.exists() else work.known
    _share(work.datamodule, run, launch)
    return Start(run, launch, statistics, held)


def await_file(file: Path, run: RunDirectory, given: str | None) -> None:
    """Another rank than 0: see what rank 0 wrote.

    Args:
        file: the last that it wrote.
        run: where it says that the run is.
        given: this rank's ``output_dir``.

    Raises:
        M2IBError: if it is not seen, or ``output_dir`` is another directory.
    """
    end = time.monotonic() + _PATIENCE
    while not file.exists():  # network file systems may be late
        if time.monotonic() > end:
            raise M2IBError(
                f"rank 0 began in {str(run.path)!r}, which is not seen from here: output_dir must be shared"
            )
        time.sleep(0.2)
    if given is not None and not (Path(given).expanduser().exists() and Path(given).expanduser().samefile(run.path)):
        raise M2IBError(
            f"rank 0 of another run answered: it writes to {str(run.path)!r}, this one to {given!r}. Set MASTER_PORT "
            "to a port of this run's own"
        )


def _share(datamodule: PairDataModule, run: RunDirectory, launch: Launch) -> None:
    """Tell the datamodule what is left to do."""
    if launch.remaining.exists():
        datamodule.positions = np.load(launch.remaining, mmap_mode="r")
    datamodule.finished = run.table


def check_world(config: Config, world: World) -> None:
    """Before anything is loaded, and before the ranks meet.

    Raises:
        M2IBError: if a key is no good, or the ranks could not meet.
    """
    if config.seed < 0:
        raise M2IBError(f"seed must not be negative, got {config.seed}")
    if config.retry_failed and not config.resume:
        raise M2IBError("retry_failed=true goes with resume=true and the output_dir of the run")
    if world.started_by_others and config.output_dir is None and not world.is_child:
        raise M2IBError(
            "output_dir is needed where torchrun, Slurm or another launcher starts the processes: a directory that all "
            "of them see"
        )
    if world.nodes > 1 and not world.started_by_others and not {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise M2IBError(
            f"trainer.num_nodes={world.nodes}: set MASTER_ADDR and MASTER_PORT (where rank 0 is; the same on every "
            "node) and NODE_RANK (0, 1, ...), and start the command on each; torchrun and Slurm set them themselves"
        )


def _urls(data: DataConfig) -> UrlSettings:
    return UrlSettings(
        allow=data.allow_urls,
        allow_private=data.allow_private_urls,
        timeout=data.url_timeout,
        max_bytes=data.url_max_bytes,
        retries=data.url_retries,
        connections=data.url_connections,
        cache=None if data.url_cache is None else Path(data.url_cache).expanduser(),
    )


def _settings(config: Config, model: LoadedModel) -> BottleneckSettings:
    values: dict[str, Any] = asdict(config.bottleneck)
    preset = values.pop("preset")
    for name in ("statistics", "enabled"):
        values.pop(name)
    base = model.preset if preset == "recommended" else BottleneckSettings()
    return base.override(values)


def _statistics(
    work: Work, run: RunDirectory, device: torch.device, priors: Sequence[BottleneckSettings]
) -> Statistics:
    """The priors that are known, and those still needed: measured on the first pairs, kept in the run directory."""
    known, model = work.known, work.model
    if run.statistics.exists():
        known = known.updated(Statistics.load(run.statistics))
    measured = False
    while missing := next(filter(None, (needed(settings, known) for settings in priors)), None):
        measured = True
        pairs = work.settings.calibration_pairs
        print(f"measuring {', '.join(f'{m} layer {k}' for m, k in missing.items())} on up to {pairs} pairs", flush=True)
        with frozen(model.encoder.model, device, torch.promote_types(model.dtype, torch.float32)):
            known = calibrate(model.encoder, work.datamodule.calibration_batches(pairs), missing, known, pairs)
    if measured:
        known.save(run.statistics)
    return known


def hash_of(statistics: Statistics, priors: Sequence[BottleneckSettings]) -> str | None:
    """The statistics' hash where a bottleneck uses them."""
    used = any(each.tower(modality).prior == "data" for each in priors for modality in MODALITIES)
    return statistics.sha256 if used else None
