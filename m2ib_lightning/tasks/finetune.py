"""``task=finetune``: train a model with a bottleneck in each tower; ranks share gradients (DDP), or weights (FSDP)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger

from m2ib_lightning.config import MODALITIES, Config, Modality, resolved_yaml
from m2ib_lightning.datamodules.training import FinetuneDataModule
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.finetuning.clip_module import IBClipModule
from m2ib_lightning.finetuning.folder import save_model
from m2ib_lightning.finetuning.lora import merge_adapters
from m2ib_lightning.finetuning.maps import SHOWN
from m2ib_lightning.finetuning.options import check_options
from m2ib_lightning.finetuning.sharded import gathered_weights, is_sharded
from m2ib_lightning.m2ib.statistics import Statistics, calibrate, needed
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.run.directory import RunDirectory, open_run_directory
from m2ib_lightning.run.resume import check_same_run
from m2ib_lightning.run.sharding import Rendezvous
from m2ib_lightning.run.sharding.rendezvous import LAUNCH_VARIABLE
from m2ib_lightning.tasks.finetune_arguments import CHANGES_TRAINING, finetune_arguments
from m2ib_lightning.tasks.quiet import quiet_lightning
from m2ib_lightning.tasks.start import Work, await_file, check_world, hash_of
from m2ib_lightning.tasks.trainer_arguments import World

_USUAL = "ddp, or one rank"


def finetune(config: Config) -> int:
    """Train, validate and save; returns the exit status: 0, or 130 after Ctrl-C."""
    if config.retry_failed:
        raise M2IBError("retry_failed is of task=attribute: here a pair that can't be read is replaced by another")
    options = config.finetune
    with quiet_lightning():
        arguments, world = finetune_arguments(config.trainer)
        check_world(config, world)
        with Rendezvous(world.meeting_place, world.rank, world.listeners) as rendezvous:
            work = Work.prepare(config)
            check_options(options, work.model, config.bottleneck.enabled)
            data = _data(work)
            data.check(world.size)
            if world.rank == 0:
                start = _begin(work, arguments, world)
                rendezvous.send(start.message)
            else:
                start = _join(work, rendezvous.receive())
            rendezvous.leave()
        module, run = _module(work, start.statistics), start.run
        sharded = is_sharded(arguments)
        whole = deepcopy(module) if sharded and world.rank == 0 else module  # its weights are put in at the end
        trainer = _trainer(arguments, run, validates=bool(len(data.validation)), every=options.checkpoint_every)
        if world.rank == 0:
            print(
                f"{len(data.training)} pairs to train on, {len(data.validation)} to validate, loss {module.loss_name}, "
                f"model {work.model.name}, run directory {run.path}",
                flush=True,
            )
        try:
            with start.handing():
                trainer.fit(module, datamodule=data, ckpt_path=start.checkpoint, weights_only=True)
                nothing_left = start.checkpoint is not None and not _validated(trainer)
                if nothing_left and len(data.validation):
                    trainer.validate(module, datamodule=data, verbose=False)
        except SystemExit:  # Lightning's answer to Ctrl-C and SIGTERM
            print("stopped; resume=true with this output_dir goes on from the last checkpoint", flush=True)
            return 128 + signal.SIGINT
        if sharded:
            weights = gathered_weights(module)  # every rank gives its share
            if world.rank == 0:
                whole.load_state_dict(weights, assign=True)
        if trainer.is_global_zero:
            _finish(trainer, whole, module.seconds, data, run)
    return 0


def _module(work: Work, statistics: Statistics) -> IBClipModule:
    """The model and the bottlenecks that are trained."""
    config = work.config
    return IBClipModule(
        work.model,
        config.finetune,
        work.settings,
        enabled=config.bottleneck.enabled,
        seed=config.seed,
        statistics=statistics,
    )


def _data(work: Work) -> FinetuneDataModule:
    """The pairs that are trained on and validated with."""
    config, options = work.config, work.config.finetune
    if options.hard_negatives and config.data.name == "captions" and config.data.negatives_column is None:
        raise M2IBError(f"finetune.hard_negatives={options.hard_negatives} needs data.negatives_column, where they are")
    return FinetuneDataModule(
        work.datamodule,
        config.seed,
        options.validation,
        shuffle=options.shuffle,
        hard_negatives=options.hard_negatives,
        pictures=min(SHOWN, options.maps),
    )


def _validated(trainer: Trainer) -> bool:
    return any(name.startswith("val/") for name in trainer.callback_metrics)


@dataclass(frozen=True)
class TrainingStart:
    """What all ranks know of the run.

    Attributes:
        run: its directory.
        statistics: every prior that is needed.
        checkpoint: where it goes on from, if it does.
    """

    run: RunDirectory
    statistics: Statistics
    checkpoint: str | None

    @property
    def message(self) -> dict[str, str]:
        """The same for the other ranks."""
        return {"run": str(self.run.path), "checkpoint": self.checkpoint or ""}

    @contextmanager
    def handing(self) -> Iterator[None]:
        """Inside, processes that are started find the message."""
        before = os.environ.get(LAUNCH_VARIABLE)
        os.environ[LAUNCH_VARIABLE] = json.dumps(self.message)
        try:
            yield
        finally:
            if before is None:
                del os.environ[LAUNCH_VARIABLE]


def _begin(work: Work, arguments: dict[str, Any], world: World) -> TrainingStart:
    """Rank 0: make the run directory, or open that of a run to go on with."""
    run, resumed = open_run_directory(work.config.output_dir, work.config.resume, "checkpoints")
    statistics = _statistics(work, run)
    _note_configuration(work, run, statistics, arguments, world.size, resumed)
    last = run.path / "checkpoints" / "last.ckpt"
    return TrainingStart(run, statistics, str(last) if resumed and last.exists() else None)


def _join(work: Work, message: dict[str, str]) -> TrainingStart:
    """The other ranks: see what rank 0 made."""
    run, checkpoint = RunDirectory(Path(message["run"]), "checkpoints"), message["checkpoint"] or None
    await_file(run.config, run, work.config.output_dir)
    if checkpoint is not None:
        await_file(Path(checkpoint), run, work.config.output_dir)
    known = work.known.updated(Statistics.load(run.statistics)) if run.statistics.exists() else work.known
    return TrainingStart(run, known, checkpoint)


def _note_configuration(
    work: Work, run: RunDirectory, statistics: Statistics, arguments: dict[str, Any], ranks: int, resumed: bool
) -> None:
    """Write ``training.json`` and ``config.yaml``, or refuse to go on with a run of another configuration."""
    text = resolved_yaml(work.config, work.settings.to_dict(), hash_of(statistics, [work.settings]))
    facts = {name: arguments.get(name) for name in CHANGES_TRAINING}
    facts |= {"global_batch": work.datamodule.batch_size * ranks, "pairs": len(work.datamodule)}
    facts |= {"trainer.strategy": "fsdp" if is_sharded(arguments) else _USUAL}
    path = run.path / "training.json"
    if resumed:
        check_same_run(run, text)
        before = {"trainer.strategy": _USUAL, **(json.loads(path.read_text()) if path.exists() else facts)}
        for name, value in facts.items():
            if before.get(name) != value:
                raise M2IBError(
                    f"resume=true: {name} was {before.get(name)} and is now {value}; give it as it was: the "
                    "checkpoint would not fit, or the weights be others than those of a run that was not interrupted"
                )
    atomic_write_text(path, json.dumps(facts, indent=2) + "\n")
    atomic_write_text(run.config, text)


def _statistics(work: Work, run: RunDirectory) -> Statistics:
    """Priors of ``prior=data``, of the model as it is before the training."""
    known = work.known.updated(Statistics.load(run.statistics)) if run.statistics.exists() else work.known
    missing = needed(work.settings, known) if work.config.bottleneck.enabled else {}
    if missing:
        pairs = work.settings.calibration_pairs
        with frozen(work.model.encoder.model):
            known = calibrate(work.model.encoder, work.datamodule.calibration_batches(pairs), missing, known, pairs)
        known.save(run.statistics)
    return known


def _with_statistics(module: IBClipModule, data: FinetuneDataModule) -> LoadedModel:
    """The model with the statistics of its layers as they are now."""
    model, pairs = module.loaded, module.settings.calibration_pairs
    if module.options.train == "bottleneck" or not model.statistics.priors:
        return model
    known = Statistics()
    with frozen(model.encoder.model):
        for layers in _by_tower(model.statistics):
            known = calibrate(model.encoder, data.pairs.calibration_batches(pairs), layers, known, pairs)
    return replace(model, statistics=known)


def _by_tower(statistics: Statistics) -> list[dict[Modality, int]]:
    """One layer of each tower at a time."""
    found: list[dict[Modality, int]] = []
    for name in statistics.priors:
        modality, _, layer = name.partition(".")
        for m in MODALITIES:
            if m == modality:
                found.append({m: int(layer)})
    return found


def _trainer(arguments: dict[str, Any], run: RunDirectory, *, validates: bool, every: int) -> Trainer:
    callbacks: list[Callback] = [_checkpoints(run, save_on_train_epoch_end=True), LearningRateMonitor("step")]
    if every:
        callbacks.append(_checkpoints(run, every_n_train_steps=every))
    more: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
    return Trainer(
        **{**arguments, **more},
        logger=TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False),
        callbacks=callbacks,
    )


def _checkpoints(run: RunDirectory, **when: Any) -> ModelCheckpoint:
    """One file, the last."""
    return ModelCheckpoint(run.path / "checkpoints", save_last=True, save_top_k=0, enable_version_counter=False, **when)


def _finish(
    trainer: Trainer, module: IBClipModule, seconds: float, data: FinetuneDataModule, run: RunDirectory
) -> None:
    folder = run.path / "model"
    merge_adapters(module.network.model)
    save_model(module.network, _with_statistics(module, data), folder, module.home)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    atomic_write_text(
        run.summary,
        json.dumps({"steps": trainer.global_step, "seconds": round(seconds, 1), **metrics}, indent=2) + "\n",
    )
    shown = "".join(f"{name:>24}  {value:.4f}\n" for name, value in metrics.items() if name.startswith("val/"))
    print(
        f"\n{trainer.global_step} steps\n{shown}model        {folder}\ncurves       tensorboard --logdir {run.path}",
        flush=True,
    )
