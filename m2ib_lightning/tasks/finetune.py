"""``task=finetune``: train a model with a bottleneck in each tower; ranks share gradients (ordinary DDP)."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import write_whole
from m2ib_lightning.finetuning.data import FinetuneDataModule
from m2ib_lightning.finetuning.folder import save_model
from m2ib_lightning.finetuning.module import IBClipModule, check_options
from m2ib_lightning.frozen import frozen
from m2ib_lightning.resume import check_same_run
from m2ib_lightning.run_directory import RunDirectory, open_run_directory
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
}
_EPOCHS = 10


def finetune(config: Config) -> int:
    """Train, validate and save; returns the exit status: 0, or 130 after Ctrl-C."""
    arguments = _trainer_arguments(config.trainer)
    with quiet_lightning():
        work = Work.prepare(config)
        data = FinetuneDataModule(work.datamodule, config.seed, config.finetune.validation)
        check_options(config.finetune, work.model, config.bottleneck.enabled)
        data.check(ranks=_probe(arguments))
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
        text = resolved_yaml(config, work.settings, statistics, [work.settings])
        if resumed:
            check_same_run(run, text)
        write_whole(run.config, text)
        trainer = _trainer(arguments, run, bool(len(data.validation)))
        print(
            f"{len(data.training)} pairs to train on, {len(data.validation)} to validate, loss {module.loss_name}, "
            f"model {work.model.name}, run directory {run.path}",
            flush=True,
        )
        last = run.path / "checkpoints" / "last.ckpt"
        path = str(last) if resumed and last.exists() else None
        with _handing(run):
            trainer.fit(module, datamodule=data, ckpt_path=path, weights_only=True)
        if trainer.interrupted:
            print("stopped; resume=true with this output_dir goes on from the last checkpoint", flush=True)
            return 128 + signal.SIGINT
        if trainer.is_global_zero:
            _finish(trainer, module, run)
    return 0


def _trainer_arguments(given: dict[str, Any]) -> dict[str, Any]:
    for name, reason in _REFUSED.items():
        if name in given:
            raise M2IBError(f"trainer.{name}={given[name]!r} is refused for task=finetune: {reason}")
    strategy = str(given.get("strategy", "auto"))
    if "fsdp" in strategy and not torch.cuda.is_available():
        raise M2IBError("trainer.strategy=fsdp needs GPUs; on CPUs trainer.strategy=ddp trains on several ranks")
    if strategy == "samples":
        raise M2IBError("trainer.strategy=samples shares no gradients: task=finetune takes ddp, or fsdp on GPUs")
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
    if "LOCAL_RANK" in os.environ and config.output_dir is None:
        raise M2IBError("output_dir is needed where torchrun or Slurm starts the processes")
    if int(os.environ.get("RANK", "0")) > 0 and config.output_dir is not None:
        return RunDirectory(Path(config.output_dir).expanduser().resolve(), "checkpoints"), config.resume
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


def _trainer(arguments: dict[str, Any], run: RunDirectory, validates: bool) -> Trainer:
    checkpoint = ModelCheckpoint(run.path / "checkpoints", save_last=True, save_top_k=0, save_on_train_epoch_end=True)
    more = {} if validates else {"limit_val_batches": 0}
    return Trainer(
        **{**arguments, **more},
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False),
        callbacks=[checkpoint, LearningRateMonitor("step")],
    )


def _finish(trainer: Trainer, module: IBClipModule, run: RunDirectory) -> None:
    folder = run.path / "model"
    save_model(module.network, module.loaded, folder, module.home)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    write_whole(run.summary, json.dumps({"steps": trainer.global_step, **metrics}, indent=2) + "\n")
    shown = "".join(f"{name:>24}  {value:.4f}\n" for name, value in metrics.items() if name.startswith("val/"))
    print(
        f"\n{trainer.global_step} steps\n{shown}model        {folder}\ncurves       tensorboard --logdir {run.path}",
        flush=True,
    )
