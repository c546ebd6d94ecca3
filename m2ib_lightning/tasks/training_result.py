"""The result of a training: the model's folder, the statistics of its layers, and the summary."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

from lightning import Trainer

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.datamodules.training import FinetuneDataModule
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.files import atomic_write_text, read_yaml
from m2ib_lightning.finetuning.clip_module import IBClipModule
from m2ib_lightning.finetuning.folder import save_model
from m2ib_lightning.finetuning.lora import merge_adapters
from m2ib_lightning.m2ib.statistics import Statistics, calibrate
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.loggers import log_final_values


def save_result(
    trainer: Trainer,
    module: IBClipModule,
    seconds: float,
    data: FinetuneDataModule,
    run: RunDirectory,
    curves: Sequence[str],
) -> None:
    """Write ``model/`` and ``summary.json``, log its numbers, and print the metrics of the validation.

    Args:
        trainer: the Trainer, after ``fit``.
        module: the trained module, with all of its weights.
        seconds: seconds that the training took.
        data: the data module of the training, on whose pairs the layers' statistics are measured.
        run: the run directory.
        curves: for each logger, where its curves are.
    """
    folder = run.path / "model"
    merge_adapters(module.network.model)
    save_model(module.network, _with_statistics(module, data), folder, module.home)
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    summary = {"steps": trainer.global_step, "seconds": round(seconds, 1), **metrics}
    atomic_write_text(run.summary, json.dumps(summary, indent=2) + "\n")
    lines = "".join(f"{name:>24}  {value:.4f}\n" for name, value in metrics.items() if name.startswith("val/"))
    places = "".join(f"\ncurves       {place}" for place in curves)
    print(f"\n{trainer.global_step} steps\n{lines}model        {folder}{places}", flush=True)
    logged = ("steps", "seconds", "val/")
    numbers = {f"summary/{name}": value for name, value in summary.items() if name.startswith(logged)}
    log_final_values(trainer.loggers, read_yaml(run.config), numbers, trainer.global_step)


def _with_statistics(module: IBClipModule, data: FinetuneDataModule) -> LoadedModel:
    """Return the model, with the statistics of its layers measured again after the training."""
    model, pairs = module.loaded, module.settings.calibration_pairs
    if module.options.train == "bottleneck" or not model.statistics.priors:
        return model
    statistics = Statistics()
    with frozen(model.encoder.model):
        for layers in _measured_layers(model.statistics):
            batches = data.pairs.calibration_batches(pairs)
            statistics = calibrate(model.encoder, batches, layers, statistics, pairs)
    return replace(model, statistics=statistics)


def _measured_layers(statistics: Statistics) -> list[dict[Modality, int]]:
    """Return each layer that has statistics, as a dict from its tower to its number."""
    parts = [name.partition(".") for name in statistics.priors]
    return [{m: int(layer)} for modality, _, layer in parts for m in MODALITIES if m == modality]
