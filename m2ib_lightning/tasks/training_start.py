"""The start of a training: its run directory, what a resumed start must not change, and its checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typing_extensions import override

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write_text, first_line, remove_leftovers
from m2ib_lightning.finetuning.checkpoint import read_checkpoint
from m2ib_lightning.finetuning.sharded import is_sharded
from m2ib_lightning.pairs.pair import PairStream
from m2ib_lightning.run.changed_pairs import digest_of
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.tasks.finetune_arguments import CHANGES_TRAINING
from m2ib_lightning.tasks.priors import saved_priors
from m2ib_lightning.tasks.run_start import (
    OpenedRun,
    RunStart,
    await_file,
    begin_locked_launch,
    join_locked_launch,
    open_run,
)
from m2ib_lightning.tasks.work import Work
from m2ib_lightning.tasks.world import World

CHECKPOINTS = "checkpoints"
"""Name of the run directory's subfolder of checkpoints."""

_USUAL = "ddp, or one rank"
"""Value of ``trainer.strategy`` in ``training.json`` for trainings without FSDP."""


@dataclass(frozen=True)
class TrainingStart(RunStart):
    """The start of a training, on one rank.

    Attributes:
        checkpoint: path of the checkpoint that the training resumes from; None for a new training.
    """

    checkpoint: str | None = None

    @property
    @override
    def message(self) -> dict[str, str]:
        launch = self.launch.folder.name
        return {"run": str(self.run.path), "launch": launch, "checkpoint": self.checkpoint or ""}


def begin_training(work: Work, arguments: dict[str, Any], world: World) -> TrainingStart:
    """Open the run directory on rank 0, and find the checkpoint to resume from.

    Args:
        work: the model, the settings and the pairs.
        arguments: arguments of the Trainer.
        world: the ranks.

    Raises:
        M2IBError: if the directory holds a run that must not or cannot be resumed.
    """
    bottlenecks = [work.settings] if work.config.bottleneck.enabled else []
    opened = open_run(work, world, CHECKPOINTS, bottlenecks, _holds_work)
    run, last = opened.run, _last(opened.run)
    launch, lock = begin_locked_launch(run, world.size, len(work.datamodule))
    try:
        for folder in (run.path, run.table):
            remove_leftovers(folder)
        _record(work, opened, arguments, world.size)
        checkpoint = str(last) if opened.resumed and last.exists() else None
        if checkpoint is not None:
            read_checkpoint(last)
    except BaseException:
        launch.remove()
        lock.close()
        raise
    return TrainingStart(run, opened.statistics, launch, lock, checkpoint)


def join_training(work: Work, world: World, message: dict[str, str]) -> TrainingStart:
    """Join, on a rank other than 0, the training that rank 0 began.

    Args:
        work: the model, the settings and the pairs.
        world: the ranks.
        message: the message of rank 0.

    Raises:
        M2IBError: if this rank can't see the run directory or the checkpoint, or disagrees with rank 0 on the ranks.
    """
    run, checkpoint = RunDirectory(Path(message["run"]), CHECKPOINTS), message["checkpoint"] or None
    await_file(run.config, run, work.config.output_dir)
    if checkpoint is not None:
        await_file(Path(checkpoint), run, work.config.output_dir)
    launch, lock = join_locked_launch(run, message["launch"], world.rank, world.size)
    return TrainingStart(run, saved_priors(work, run), launch, lock, checkpoint)


def _last(run: RunDirectory) -> Path:
    return run.path / CHECKPOINTS / "last.ckpt"


def _holds_work(run: RunDirectory) -> bool:
    return _last(run).exists() or (run.path / "model").exists()


def _record(work: Work, opened: OpenedRun, arguments: dict[str, Any], ranks: int) -> None:
    """Write ``training.json`` and ``config.yaml``, or refuse to resume with other values."""
    facts = {name: arguments.get(name) for name in CHANGES_TRAINING}
    facts |= {"global_batch": work.datamodule.batch_size * ranks, "pairs": len(work.datamodule)}
    facts |= {"trainer.strategy": "fsdp" if is_sharded(arguments) else _USUAL}
    facts |= {"source": _digest(work)}
    path = opened.run.path / "training.json"
    if opened.resumed:
        before = {
            "trainer.strategy": _USUAL,
            "source": facts["source"],
            **(_facts_before(path) if path.exists() else facts),
        }
        if before["source"] != facts["source"]:
            raise M2IBError(
                f"resume=true: pairs of data.path={work.config.data.path} have changed since the training began (a "
                "caption, the order, or an image). Give the pairs as they were, or another output_dir"
            )
        for name, value in facts.items():
            if before.get(name) != value:
                raise M2IBError(
                    f"resume=true: {name} was {before.get(name)} and is now {value}; give it as it was: the "
                    "checkpoint would not fit, or the weights would differ from those of an uninterrupted run"
                )
    atomic_write_text(path, json.dumps(facts, indent=2) + "\n")
    atomic_write_text(opened.run.config, opened.resolved)


def _digest(work: Work) -> str | None:
    source = work.datamodule.source
    return None if isinstance(source, PairStream) else digest_of(source, len(work.datamodule))


def _facts_before(path: Path) -> dict[str, Any]:
    """Return the content of the run's ``training.json``, which may be damaged."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"it must hold keys and values, got a {type(facts).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        raise M2IBError(
            f"resume=true: {path} could not be read: {first_line(error)}. Put a good copy of the file there; or remove "
            "it, if the pairs, the global batch and the trainer's limits are as they were"
        ) from error
    return facts
