"""``task=finetune``: train a model with a bottleneck in each tower; ranks share gradients (DDP) or weights (FSDP)."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from copy import deepcopy
from typing import Any

from lightning import Trainer
from lightning.pytorch.callbacks import Callback, LearningRateMonitor
from lightning.pytorch.utilities.exceptions import SIGTERMException

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.training import FinetuneDataModule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import first_line
from m2ib_lightning.finetuning.checkpoint import AtomicCheckpointIO, LastCheckpoint, unusable
from m2ib_lightning.finetuning.clip_module import IBClipModule
from m2ib_lightning.finetuning.maps import SHOWN
from m2ib_lightning.finetuning.metrics_file import NAME, MetricsFile
from m2ib_lightning.finetuning.options import check_options
from m2ib_lightning.finetuning.sharded import gathered_weights, is_sharded
from m2ib_lightning.finetuning.training_page import write_training_page
from m2ib_lightning.m2ib.out_of_memory import is_out_of_memory
from m2ib_lightning.run.callbacks import StepProgressLines
from m2ib_lightning.run.loggers import Layout, LayoutWriter, curve_places, logger_names, make_loggers
from m2ib_lightning.run.sharding import Rendezvous
from m2ib_lightning.tasks.failures import explained_failures
from m2ib_lightning.tasks.finetune_arguments import finetune_arguments, steps_between_logs
from m2ib_lightning.tasks.quiet import quiet_lightning
from m2ib_lightning.tasks.run_start import start_together
from m2ib_lightning.tasks.towers_check import check_towers
from m2ib_lightning.tasks.training_result import save_result
from m2ib_lightning.tasks.training_start import CHECKPOINTS, TrainingStart, begin_training, join_training
from m2ib_lightning.tasks.work import Work
from m2ib_lightning.tasks.world import World, check_world

_LAYOUT: Layout = {
    "Loss and recall": {
        "loss": ["train/loss"],
        "recall, image to text": ["val/image_to_text@.*"],
        "recall, text to image": ["val/text_to_image@.*"],
    },
    "Information in nats per token and channel": {
        "image": ["train/image_information", "val/image_information"],
        "text": ["train/text_information", "val/text_information"],
    },
}
"""TensorBoard's charts of a training."""


def finetune(config: Config) -> int:
    """Train a model as configured, validate it and save it.

    Returns:
        The exit status: 0 at the end of the training, or 128 plus the number of the signal that stopped it.

    Raises:
        M2IBError: if the command or its input is wrong, or the loss is not finite.
    """
    if config.retry_failed:
        raise M2IBError("retry_failed is of task=attribute: here a pair that can't be read is replaced by another")
    with explained_failures("The last checkpoint is"), quiet_lightning(), ExitStack() as held:
        arguments, world = finetune_arguments(config.trainer)
        check_world(config, world)
        with Rendezvous(world.meeting_place, world.rank, world.listeners) as rendezvous:
            work = Work.prepare(config)
            check_options(config.finetune, work.model, config.bottleneck.enabled)
            data = _training_pairs(work)
            data.check(world.size)
            if world.rank == 0:
                check_towers(work)
            start = start_together(
                rendezvous,
                world.rank,
                lambda: begin_training(work, arguments, world),
                lambda message: join_training(work, world, message),
            )
            held.enter_context(start.lock)
            rendezvous.leave()
        signum = _train(work, data, start, arguments, world)
        start.launch.finish(world.rank)
    return 128 + signum if signum else 0


def _train(work: Work, data: FinetuneDataModule, start: TrainingStart, arguments: dict[str, Any], world: World) -> int:
    """Train, and save the result on rank 0; return the signal that stopped the training, or 0."""
    module = _module(work, start)
    sharded = is_sharded(arguments)
    unsharded = deepcopy(module) if sharded and world.rank == 0 else module  # receives all weights at the end
    global_batch = data.pairs.batch_size * world.size
    arguments = {"log_every_n_steps": steps_between_logs(len(data.training), global_batch, arguments), **arguments}
    trainer = _trainer(arguments, start, work.config, world.rank, validates=bool(len(data.validation)))
    if world.rank == 0:
        print(
            f"{len(data.training)} pairs to train on, {len(data.validation)} to validate, loss {module.loss_name}, "
            f"model {work.model.name}, run directory {start.run.path}",
            flush=True,
        )
    if signum := _fit(trainer, module, data, start):
        print("stopped; resume=true with this output_dir resumes from the last checkpoint", flush=True)
        return signum
    if sharded:
        weights = gathered_weights(module)  # called by every rank, because each holds a share
        if world.rank == 0:
            unsharded.load_state_dict(weights, assign=True)
    if trainer.is_global_zero:
        names = logger_names(work.config.trainer.get("logger"))
        curves = curve_places(names, start.run.path, start.launch.folder.name)
        save_result(trainer, unsharded, module.seconds, data, start.run, curves)
        print(f"page         {write_training_page(start.run)}", flush=True)
    return 0


def _fit(trainer: Trainer, module: IBClipModule, data: FinetuneDataModule, start: TrainingStart) -> int:
    """Train; return the signal that stopped the training, or 0."""
    try:
        with start.handed_to_children():
            _fit_from(start.checkpoint, trainer, module, data)
            if start.checkpoint is not None and not _validated(trainer) and len(data.validation):
                trainer.validate(module, datamodule=data, verbose=False)  # no step was left to train
    except SIGTERMException:
        return signal.SIGTERM
    except SystemExit:  # Lightning's answer to Ctrl-C
        return signal.SIGINT
    return 0


def _fit_from(checkpoint: str | None, trainer: Trainer, module: IBClipModule, data: FinetuneDataModule) -> None:
    """Train from a checkpoint, or from the beginning."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except (M2IBError, OSError, MemoryError, SIGTERMException):
        raise
    except Exception as error:
        if checkpoint is None or module.has_stepped or is_out_of_memory(error):
            raise
        reason = f"its state does not fit this training ({type(error).__name__}: {first_line(error)})"
        raise unusable(checkpoint, reason) from error


def _module(work: Work, start: TrainingStart) -> IBClipModule:
    config = work.config
    return IBClipModule(
        work.model,
        config.finetune,
        work.settings,
        enabled=config.bottleneck.enabled,
        seed=config.seed,
        statistics=start.statistics,
    )


def _training_pairs(work: Work) -> FinetuneDataModule:
    config, options = work.config, work.config.finetune
    if options.hard_negatives and config.data.source == "captions" and config.data.negatives_column is None:
        raise M2IBError(
            f"finetune.hard_negatives={options.hard_negatives} needs data.negatives_column, which names their column"
        )
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


def _trainer(arguments: dict[str, Any], start: TrainingStart, config: Config, rank: int, *, validates: bool) -> Trainer:
    run, every = start.run.path, config.finetune.checkpoint_every
    folder = run / CHECKPOINTS
    plugins = [*arguments.get("plugins", []), AtomicCheckpointIO()]
    loggers = make_loggers(logger_names(config.trainer.get("logger")), run, start.launch.folder.name, rank)
    callbacks: list[Callback] = [LastCheckpoint(folder, save_on_train_epoch_end=True), LayoutWriter(_LAYOUT)]
    callbacks.append(MetricsFile(run / NAME))
    if loggers:
        callbacks.append(LearningRateMonitor("step"))
    if every:
        callbacks.append(LastCheckpoint(folder, every_n_train_steps=every))
    if arguments.get("enable_progress_bar", True) and not sys.stdout.isatty():
        callbacks.append(StepProgressLines())
    limits: dict[str, Any] = {} if validates else {"limit_val_batches": 0}
    return Trainer(
        **{**arguments, **limits, "plugins": plugins},
        logger=loggers,
        callbacks=callbacks,
    )
