"""``task=finetune``: train a model with a bottleneck in each tower; ranks share gradients (ordinary DDP)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import write_whole
from m2ib_lightning.finetuning.data import FinetuneDataModule
from m2ib_lightning.finetuning.folder import save_model
from m2ib_lightning.finetuning.module import IBClipModule, check_options
from m2ib_lightning.frozen import frozen
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.resume import check_same_run
from m2ib_lightning.run_directory import RunDirectory, open_run_directory
from m2ib_lightning.settings import MODALITIES, Modality
from m2ib_lightning.sharding import in_slurm_job
from m2ib_lightning.statistics import Statistics, calibrate, needed
from m2ib_lightning.tasks.quiet import quiet_lightning
from m2ib_lightning.tasks.start import Work, resolved_yaml

_HANDED = "M2IB_FINETUNE_RUN"
"""Under this name rank 0 tells the processes that it starts where the run is."""

_REFUSED = {
    "logger": "the run directory's TensorBoard is the logger",
    "callbacks": "callbacks are objects; give them to a Trainer of your own with IBClipModule",
    "enable_checkpointing": "checkpoints are what resume=true goes on from",
    "use_distributed_sampler": "batches are dealt out so that ranks do not change them",
    "num_sanity_val_steps": "recall needs all validation pairs",
}
_CHANGES_TRAINING = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val")
"""The Trainer's arguments that a resumed run must not change, beside the size of the global batch."""
_EPOCHS = 10


def finetune(config: Config) -> int:
    """Train, validate and save; returns the exit status: 0, or 130 after Ctrl-C."""
    arguments = _trainer_arguments(config.trainer)
    if config.seed < 0:
        raise M2IBError(f"seed must not be negative, got {config.seed}")
    if config.retry_failed:
        raise M2IBError("retry_failed is of task=attribute: here a pair that can't be read is replaced by another")
    with quiet_lightning():
        work = Work.prepare(config)
        check_options(config.finetune, work.model, config.bottleneck.enabled)
        options = config.finetune
        data = FinetuneDataModule(
            work.datamodule, config.seed, options.validation, shuffle=options.shuffle, others=options.others
        )
        ranks = _probe(arguments)
        data.check(ranks)
        run, resumed = _open(config)
        statistics = _statistics(work, run)
        module = IBClipModule(
            work.model,
            config.finetune,
            work.settings,
            enabled=config.bottleneck.enabled,
            seed=config.seed,
            statistics=statistics,
        )
        trainer = _trainer(arguments, run, validates=bool(len(data.validation)), every=options.checkpoint_every)
        if _HANDED not in os.environ:  # rank 0
            _note_configuration(config, work, run, statistics, arguments, ranks, resumed)
            print(
                f"{len(data.training)} pairs to train on, {len(data.validation)} to validate, loss {module.loss_name}, "
                f"model {work.model.name}, run directory {run.path}",
                flush=True,
            )
        last = run.path / "checkpoints" / "last.ckpt"
        path = str(last) if resumed and last.exists() else None
        begun = time.monotonic()
        try:
            with _handing(run):
                trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
                if path is not None and len(data.validation) and not _validated(trainer):  # nothing was left to train
                    trainer.validate(module, datamodule=data, verbose=False)
        except SystemExit:  # Lightning's answer to Ctrl-C and SIGTERM
            print("stopped; resume=true with this output_dir goes on from the last checkpoint", flush=True)
            return 128 + signal.SIGINT
        if trainer.is_global_zero:
            _finish(trainer, module, data, run, time.monotonic() - begun)
    return 0


def _validated(trainer: Trainer) -> bool:
    return any(name.startswith("val/") for name in trainer.callback_metrics)


def _note_configuration(
    config: Config,
    work: Work,
    run: RunDirectory,
    statistics: Statistics,
    arguments: dict[str, Any],
    ranks: int,
    resumed: bool,
) -> None:
    """Write ``config.yaml`` and ``training.json``, or refuse to go on with a run of another configuration."""
    text = resolved_yaml(config, work.settings, statistics, [work.settings])
    facts = {name: arguments.get(name) for name in _CHANGES_TRAINING}
    facts |= {"global_batch": work.datamodule.batch_size * ranks, "pairs": len(work.datamodule)}
    path = run.path / "training.json"
    if resumed:
        check_same_run(run, text)
        before = json.loads(path.read_text()) if path.exists() else facts
        for name, value in facts.items():
            if before.get(name) != value:
                raise M2IBError(
                    f"resume=true: {name} was {before.get(name)} and is now {value}; the weights would be others than "
                    "those of a run that was not interrupted"
                )
    write_whole(run.config, text)
    write_whole(path, json.dumps(facts, indent=2) + "\n")


def _trainer_arguments(given: dict[str, Any]) -> dict[str, Any]:
    for name, reason in _REFUSED.items():
        if name in given:
            raise M2IBError(f"trainer.{name}={given[name]!r} is refused for task=finetune: {reason}")
    strategy = str(given.get("strategy", "auto"))
    if strategy == "samples":
        raise M2IBError("trainer.strategy=samples shares no gradients: task=finetune takes ddp")
    if strategy != "auto" and not strategy.startswith("ddp"):
        raise M2IBError(
            f"trainer.strategy={strategy} was never tried and is refused: task=finetune takes ddp, where every rank "
            "has the whole model"
        )
    precision = str(given.get("precision", "32-true"))
    if precision in ("16-true", "bf16-true"):
        raise M2IBError(f"trainer.precision={precision} is refused: weights and masks must be float32; use bf16-mixed")
    if given.get("max_epochs") == -1 and given.get("max_steps", -1) == -1:
        raise M2IBError("trainer.max_epochs=-1 never ends: the learning rate falls over a known number of steps")
    started = {"RANK", "SLURM_STEP_ID"} & set(os.environ) if _HANDED not in os.environ else set()
    if started or int(given.get("num_nodes", 1)) > 1:
        raise M2IBError(
            "task=finetune starts its own processes, on one machine: trainer.devices=N trainer.strategy=ddp (not "
            "torchrun, srun, or several nodes)"
        )
    return {"max_epochs": _EPOCHS, "log_every_n_steps": 10, "enable_model_summary": False, **given}


def _probe(arguments: dict[str, Any]) -> int:
    """Whether Lightning takes them, before the run directory is made; returns the number of ranks."""
    try:
        return Trainer(**arguments, logger=False, enable_checkpointing=False).world_size
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        first = str(error).strip().split("\n")[0]
        raise M2IBError(f"lightning.Trainer refuses {arguments}: {first}") from None


def _open(config: Config) -> tuple[RunDirectory, bool]:
    """The run directory; the processes that rank 0 starts are told where it is."""
    handed = os.environ.get(_HANDED)
    if handed is not None:
        return RunDirectory(Path(handed), "checkpoints"), config.resume
    return open_run_directory(config.output_dir, config.resume, "checkpoints")


@contextmanager
def _handing(run: RunDirectory) -> Iterator[None]:
    """Inside, processes that are started learn where the run is."""
    before = os.environ.get(_HANDED)
    os.environ[_HANDED] = str(run.path)
    try:
        yield
    finally:
        if before is None:
            del os.environ[_HANDED]


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
    if in_slurm_job():  # its shell is no rank
        more["plugins"] = [*arguments.get("plugins", []), LightningEnvironment()]
    return Trainer(
        **{**arguments, **more},
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False),
        callbacks=callbacks,
    )


def _checkpoints(run: RunDirectory, **when: Any) -> ModelCheckpoint:
    """One file, the last."""
    return ModelCheckpoint(run.path / "checkpoints", save_last=True, save_top_k=0, enable_version_counter=False, **when)


def _finish(
    trainer: Trainer, module: IBClipModule, data: FinetuneDataModule, run: RunDirectory, seconds: float
) -> None:
    folder = run.path / "model"
    save_model(module.network, _with_statistics(module, data), folder, module.home)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    write_whole(
        run.summary,
        json.dumps({"steps": trainer.global_step, "seconds": round(seconds, 1), **metrics}, indent=2) + "\n",
    )
    shown = "".join(f"{name:>24}  {value:.4f}\n" for name, value in metrics.items() if name.startswith("val/"))
    print(
        f"\n{trainer.global_step} steps\n{shown}model        {folder}\ncurves       tensorboard --logdir {run.path}",
        flush=True,
    )
