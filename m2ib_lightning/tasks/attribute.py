"""``task=attribute``: explain pairs and write the run directory."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from lightning import Callback, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image

from m2ib_lightning.callbacks import (
    CurveLogger,
    HeatmapWriter,
    PairProgressBar,
    ReportWriter,
    RunSummary,
    TableWriter,
)
from m2ib_lightning.command_line import to_yaml
from m2ib_lightning.config import BottleneckConfig, Config, TowerConfig
from m2ib_lightning.datamodules.base import DATAMODULES, PairDataModule
from m2ib_lightning.errors import INTERRUPTED, M2IBError
from m2ib_lightning.explainer import resolve
from m2ib_lightning.frozen import frozen
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.module import M2IBModule
from m2ib_lightning.precision import speed_on_cpu
from m2ib_lightning.run_directory import RunDirectory, create_run_directory
from m2ib_lightning.settings import MODALITIES, BottleneckSettings
from m2ib_lightning.statistics import Statistics, calibrate, needed
from m2ib_lightning.tasks.trainer_arguments import trainer_arguments


def attribute(config: Config) -> int:
    """Explain every pair of the data source.

    Everything that can be wrong before the work starts is checked before the run directory is made.

    Returns:
        0, or 1 if every pair failed.
    """
    if config.seed < 0:
        raise M2IBError(f"seed must not be negative, got {config.seed}")
    datamodule_type = DATAMODULES.get(config.data.name)
    with _quiet_lightning():
        arguments = trainer_arguments(config.trainer)
    model = load_model(config.model.name)
    settings = resolve(_settings(config, model), model.encoder)
    preparer = model.preparer.with_options(fit=config.data.fit, image_timeout=config.data.image_timeout)
    datamodule = datamodule_type.from_config(config, preparer)
    datamodule.setup("fit")
    given = config.bottleneck.statistics
    known = model.statistics if given is None else model.statistics.updated(Statistics.load(given))

    run = create_run_directory(config.output_dir)
    summary = RunSummary(run.summary, len(datamodule))
    with _quiet_lightning():
        trainer = Trainer(
            **arguments,
            logger=TensorBoardLogger(run.path, name="tensorboard", version="", default_hp_metric=False),
            callbacks=_callbacks(config, run, summary),
        )
        try:
            statistics = _calibrated(known, model, settings, datamodule, run, trainer.strategy.root_device)
        except BaseException:
            run.discard()
            raise
        _mention_slow_precision(trainer)
        module = M2IBModule(model, settings, seed=config.seed, statistics=statistics, compile=config.model.compile)
        run.config.write_text(_resolved(config, settings, statistics), encoding="utf-8")
        print(f"{len(datamodule)} pairs, model {config.model.name}, run directory {run.path}", flush=True)
        try:
            trainer.fit(module, datamodule=datamodule)
        except SystemExit:  # Lightning's answer to Ctrl-C
            _closing_words(run, summary)
            return INTERRUPTED
        except OSError as error:
            raise M2IBError(f"writing to {run.path} failed: {error}. What was written before is there.") from error
    return _closing_words(run, summary)


def _mention_slow_precision(trainer: Trainer) -> None:
    """On a CPU, half precision pays only where there are fast instructions for it."""
    types = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
    if trainer.strategy.root_device.type == "cpu" and trainer.precision in types:
        speed = speed_on_cpu(types[trainer.precision])
        if speed < 0.8:  # not for noise
            print(
                f"note: on this processor matrix products are {1 / speed:.1f} times slower in {trainer.precision} "
                "than in float32; trainer.precision=32-true would be faster",
                file=sys.stderr,
            )


def _settings(config: Config, model: LoadedModel) -> BottleneckSettings:
    values: dict[str, Any] = asdict(config.bottleneck)
    preset = values.pop("preset")
    values.pop("statistics")
    base = model.preset if preset == "recommended" else BottleneckSettings()
    return base.override(values)


def _calibrated(
    known: Statistics,
    model: LoadedModel,
    settings: BottleneckSettings,
    datamodule: PairDataModule,
    run: RunDirectory,
    device: torch.device,
) -> Statistics:
    """The priors that are known, and those still needed: measured on the first pairs, kept in the run directory."""
    missing = needed(settings, known)
    if missing:
        pairs = settings.calibration_pairs
        print(f"measuring {', '.join(f'{m} layer {k}' for m, k in missing.items())} on up to {pairs} pairs", flush=True)
        with frozen(model.encoder.model, device, torch.promote_types(model.dtype, torch.float32)):
            known = calibrate(model.encoder, datamodule.calibration_batches(pairs), missing, known, pairs)
        known.save(run.statistics)
    return known


def _resolved(config: Config, settings: BottleneckSettings, statistics: Statistics) -> str:
    """The configuration with every null of the bottleneck resolved, and the statistics' hash where they are used."""
    values = settings.to_dict()
    bottleneck = BottleneckConfig(
        preset=config.bottleneck.preset,
        image=TowerConfig(**values.pop("image")),
        text=TowerConfig(**values.pop("text")),
        statistics=config.bottleneck.statistics,
        **values,
    )
    measured = any(settings.tower(modality).prior == "data" for modality in MODALITIES)
    used = f"# sha256 of the layer statistics: {statistics.sha256}\n" if measured else ""
    return used + to_yaml(replace(config, bottleneck=bottleneck))


def _callbacks(config: Config, run: RunDirectory, summary: RunSummary) -> list[Callback]:
    bar = [PairProgressBar()] if config.trainer.get("enable_progress_bar", True) else []
    return [
        HeatmapWriter(run.heatmaps, config.output.heatmaps),  # first: the others read which file a pair was drawn to
        TableWriter(run.attributions),
        summary,
        CurveLogger(config.output.tensorboard_images),
        ReportWriter(run.report, summary),
        *bar,
    ]


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's advice on training loops, which this is not, nor Pillow's on large images."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # what is too large is an error row
        try:
            yield
        finally:
            logger.setLevel(level)


def _closing_words(run: RunDirectory, summary: RunSummary) -> int:
    """Say how it went and where to look; the exit status."""
    facts = summary.to_dict()
    if summary.skipped:
        print(f"\nstopped: {summary.skipped} of {summary.total} pairs were not reached.", file=sys.stderr)
    print(f"\n{_count(summary.done, 'pair')} explained in {facts['seconds']:.1f} s, {summary.failed} failed.")
    if summary.truncated:
        print(f"{_count(summary.truncated, 'caption')} longer than the model reads: only the beginning was explained.")
    if summary.unknown:
        print(
            f"{_count(summary.unknown, 'caption')} with words that the model's vocabulary does not know, "
            f"{summary.wholly_unknown} with no other words."
        )
    if summary.animated:
        print(f"{_count(summary.animated, 'image')} with more than one frame: the first was explained.")
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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
