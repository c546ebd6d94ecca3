"""``task=attribute``: explain pairs and write the run directory."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger

from m2ib_lightning.callbacks import (
    CurveLogger,
    HeatmapWriter,
    PairProgressBar,
    ReportWriter,
    RunSummary,
    TableWriter,
)
from m2ib_lightning.command_line import to_yaml
from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import DATAMODULES, PairDataModule
from m2ib_lightning.explainer import resolve
from m2ib_lightning.frozen import frozen
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.module import M2IBModule
from m2ib_lightning.run_directory import RunDirectory, create_run_directory
from m2ib_lightning.settings import BottleneckSettings
from m2ib_lightning.statistics import Statistics, calibrate, needed
from m2ib_lightning.tasks.trainer_arguments import trainer_arguments


def attribute(config: Config) -> int:
    """Explain every pair of the data source.

    Everything that can be wrong before the work starts is checked before the run directory is made.

    Returns:
        0, or 1 if every pair failed.
    """
    arguments = trainer_arguments(config.trainer)
    datamodule_type = DATAMODULES.get(config.data.name)
    model = load_model(config.model.name)
    settings = resolve(_settings(config, model), model.encoder)
    datamodule = datamodule_type.from_config(config, model.preparer)
    datamodule.setup("fit")

    run = create_run_directory(config.output_dir)
    statistics = _statistics(config, model, settings, datamodule, run)
    module = M2IBModule(model, settings, seed=config.seed, statistics=statistics)
    run.config.write_text(_resolved(config, settings, statistics), encoding="utf-8")
    summary = RunSummary(run.summary)
    print(f"{len(datamodule)} pairs, model {config.model.name}, run directory {run.path}", flush=True)
    with _quiet_lightning():
        trainer = Trainer(
            **arguments,
            logger=TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False),
            callbacks=_callbacks(config, run, summary),
        )
        trainer.fit(module, datamodule=datamodule)
    return _closing_words(run, summary)


def _settings(config: Config, model: LoadedModel) -> BottleneckSettings:
    values: dict[str, Any] = asdict(config.bottleneck)
    preset = values.pop("preset")
    values.pop("statistics")
    base = model.preset if preset == "recommended" else BottleneckSettings()
    return base.override(values)


def _statistics(
    config: Config, model: LoadedModel, settings: BottleneckSettings, datamodule: PairDataModule, run: RunDirectory
) -> Statistics:
    """The priors: given, from the model's folder, or measured on the first pairs and kept in the run directory."""
    path = config.bottleneck.statistics
    known = model.statistics if path is None else model.statistics.updated(Statistics.load(path))
    missing = needed(settings, known)
    if missing:
        batches = datamodule.calibration_batches(settings.calibration_pairs)
        with frozen(model.encoder.model, dtype=torch.float32):
            known = calibrate(model.encoder, batches, missing, known, settings.calibration_pairs)
        known.save(run.statistics)
    return known


def _resolved(config: Config, settings: BottleneckSettings, statistics: Statistics) -> str:
    values = settings.to_dict()
    config.bottleneck = type(config.bottleneck)(
        preset=config.bottleneck.preset,
        image=type(config.bottleneck.image)(**values.pop("image")),
        text=type(config.bottleneck.text)(**values.pop("text")),
        statistics=config.bottleneck.statistics,
        **values,
    )
    used = f"# sha256 of the layer statistics: {statistics.sha256}\n" if statistics.priors else ""
    return used + to_yaml(config)


def _callbacks(config: Config, run: RunDirectory, summary: RunSummary) -> list[Callback]:
    bar = [PairProgressBar()] if config.trainer.get("enable_progress_bar", True) else []
    return [
        HeatmapWriter(run.heatmaps),  # first: the others read which file a pair was drawn to
        TableWriter(run.attributions),
        summary,
        CurveLogger(config.output.tensorboard_images),
        ReportWriter(run.report, summary),
        *bar,
    ]


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice on training loops, which this is not."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            yield
        finally:
            logger.setLevel(level)


def _closing_words(run: RunDirectory, summary: RunSummary) -> int:
    facts = summary.to_dict()
    print(f"\n{summary.done} pairs explained in {facts['seconds']:.1f} s, {summary.failed} failed.")
    if summary.truncated:
        print(f"{summary.truncated} captions were longer than the model reads: only their beginning was explained.")
    if summary.unknown:
        print(f"{summary.unknown} captions have words that the model's vocabulary does not know.", file=sys.stderr)
    for result in summary.failures:
        print(f"  {result.pair.key}: {result.error}", file=sys.stderr)
    if summary.failed > len(summary.failures):
        print(f"  ... and {summary.failed - len(summary.failures)} more", file=sys.stderr)
    if summary.failed:
        print(f"The rows with an error are in {run.attributions}.", file=sys.stderr)
    print(
        f"pictures     {run.heatmaps}\n"
        f"page         {run.report}\n"
        f"table        {run.attributions}\n"
        f"curves       tensorboard --logdir {run.path}"
    )
    return 0 if summary.done else 1
