"""``task=tune``: choose layer, beta, gates and prior of each tower for a model, and write its ``m2ib.yaml``."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from m2ib_lightning.config import MODALITIES, Config, Modality
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.tuning.choice import BEST, PRESENT, PUBLISHED, Choice, choose
from m2ib_lightning.evaluation.tuning.coordinate_search import CoordinateSearch
from m2ib_lightning.evaluation.tuning.objectives import objective_of
from m2ib_lightning.evaluation.tuning.tower_search import Found, TowerSearch, Tried, search_towers
from m2ib_lightning.evaluation.tuning.trials import Trials
from m2ib_lightning.evaluation.tuning.tuning_pairs import TuningPairs, read_tuning_pairs
from m2ib_lightning.evaluation.tuning.tuning_report import Tuning, describe, to_html, to_lines
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, calibrate
from m2ib_lightning.models.card import write_preset
from m2ib_lightning.models.load import PRESET_FILE, STATISTICS_FILE
from m2ib_lightning.pairs.pair import PairBatch, PairStream
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.tasks.failures import explained_failures
from m2ib_lightning.tasks.quiet import quiet_lightning
from m2ib_lightning.tasks.run_start import open_run
from m2ib_lightning.tasks.trainer_arguments import trainer_arguments
from m2ib_lightning.tasks.tuning_start import check_options, grid_of, published, starts_of
from m2ib_lightning.tasks.work import Work
from m2ib_lightning.tasks.world import World, check_world

_RESAMPLES = 1000

_DRAWN = 10
"""Largest number of pairs that are read for each that is needed, where many can't be read."""


def tune(config: Config) -> int:
    """Choose a preset for the model, and write it, its statistics and a report; return the exit status.

    Raises:
        M2IBError: if the command or its input is wrong.
    """
    check_options(config)
    with explained_failures(None), quiet_lightning():
        arguments, world = trainer_arguments(config.trainer)
        check_world(config, world)
        if world.size > 1:
            raise M2IBError(f"task=tune runs on one device, got {world.size} ranks: give trainer.devices=1")
        work = Work.prepare(config)
        searches = {m: CoordinateSearch(grid_of(work, m), starts_of(work, m), config.tune.budget) for m in MODALITIES}
        pairs = read_tuning_pairs(_batches(work), config.tune.selection_pairs, config.tune.confirmation_pairs)
        run = _open(work, world)
        dtype = torch.float64 if "64" in str(arguments.get("precision", "")) else torch.float32
        tuning, statistics = Tuner(work, pairs, world.device, dtype).run(searches)
        _write(run, tuning, statistics)
        for line in (*to_lines(tuning), *_how_to_use(work, run, tuning)):
            print(line, flush=True)
    return 0


def _batches(work: Work) -> Iterable[PairBatch]:
    """Return batches of pairs that are drawn from the source; those of a stream come in its own order."""
    data, options = work.datamodule, work.config.tune
    if not isinstance(data.source, PairStream):
        most = _DRAWN * (options.selection_pairs + options.confirmation_pairs)  # not all of a large source that is bad
        rng = np.random.default_rng([work.config.seed, 11])
        data.positions = rng.choice(len(data), min(most, len(data)), replace=False)
    return data.train_dataloader()


def _open(work: Work, world: World) -> RunDirectory:
    opened = open_run(work, world, "trials", [])
    atomic_write_text(opened.run.config, opened.resolved)
    for folder in (opened.run.table, opened.run.heatmaps):
        folder.rmdir()  # this task writes neither a table nor pictures
    return opened.run


class Tuner:
    """Runs the search and the comparison.

    Args:
        work: the model, the present settings and the priors.
        pairs: the pairs.
        device: device to run on.
        dtype: dtype of the alphas and the weights.
    """

    def __init__(self, work: Work, pairs: TuningPairs, device: torch.device, dtype: torch.dtype) -> None:
        self.work = work
        self.pairs = pairs
        self.device = device
        self.dtype = dtype

    def run(self, searches: dict[Modality, CoordinateSearch]) -> tuple[Tuning, Statistics | None]:
        """Search, compare and choose.

        Returns:
            The outcome, and the statistics that its preset needs; None if it needs none.
        """
        start, work = time.monotonic(), self.work
        priors = self._priors(searches)
        selection, confirmation = (
            Trials(work.context(priors), work.datamodule.preparer, batches)
            for batches in (self.pairs.selection, self.pairs.confirmation)
        )
        towers = {m: TowerSearch(searches[m], objective_of(m, selection.pairs)) for m in MODALITIES}
        self._print_start(towers, selection, confirmation)
        trials = 0

        def report(number: int, tried: dict[Modality, Tried]) -> None:
            nonlocal trials
            trials = number
            if work.config.trainer.get("enable_progress_bar", True):
                done = [f"{m} {describe(each.settings)}: {each.score:.4f}" for m, each in tried.items()]
                print(f"trial {number:3}  {'; '.join(done)}", flush=True)

        with selection.at_work(self.device, self.dtype):
            found = search_towers(selection, work.settings, towers, report)
        choices = self._compare(found, confirmation)
        failures = {pair.key: str(pair.error) for pair in self.pairs.failed}
        failures |= selection.failures | confirmation.failures
        preset = replace(
            work.settings,
            image=choices["image"].chosen,
            text=choices["text"].chosen,
            max_rows=work.model.preset.max_rows,  # a given key is for this machine
        )
        tuning = Tuning(
            work.config.model.name,
            work.config.data.path or work.config.data.source,
            choices,
            preset,
            trials,
            len(selection.pairs),
            len(confirmation.pairs),
            [f"{key}: {error}" for key, error in failures.items()],
            time.monotonic() - start,
        )
        return tuning, _statistics_of(preset, work, priors)

    def _priors(self, searches: dict[Modality, CoordinateSearch]) -> Statistics:
        """Return the priors of all layers to try; those that are missing are measured on the pairs of the search."""
        model, priors = self.work.model, self.work.statistics
        missing = {
            m: [layer for layer in search.grid.layer if priors.get(m, layer) is None]
            for m, search in searches.items()
            if "data" in search.grid.prior
        }
        pairs = self.work.settings.calibration_pairs
        with frozen(model.encoder.model, self.device, torch.promote_types(model.dtype, torch.float32)):
            for m, layers in missing.items():
                for layer in layers:
                    priors = calibrate(model.encoder, self.pairs.selection, {m: layer}, priors, pairs)
        return priors

    def _compare(self, found: dict[Modality, Found], confirmation: Trials) -> dict[Modality, Choice]:
        """Compare the present, the published and the best settings on the pairs that took no part in the search."""
        work = self.work
        best = replace(work.settings, image=found["image"].best, text=found["text"].best)
        settings = {PUBLISHED: published(work), PRESENT: work.settings, BEST: best}
        with confirmation.at_work(self.device, self.dtype):
            measured = {each: confirmation.run(each) for each in dict.fromkeys(settings.values())}
        return {
            m: choose(
                m,
                found[m],
                {name: each.tower(m) for name, each in settings.items()},
                {name: measured[each] for name, each in settings.items()},
                confirmation.pairs,
                resamples=_RESAMPLES,
                seed=work.config.seed,
            )
            for m in MODALITIES
        }

    def _print_start(self, towers: dict[Modality, TowerSearch], selection: Trials, confirmation: Trials) -> None:
        by = ", ".join(f"{m} by {tower.objective.name}" for m, tower in towers.items())
        failed = f" ({len(self.pairs.failed)} could not be read)" if self.pairs.failed else ""
        folder = self.work.model.folder
        recommended = self.work.config.bottleneck.preset == "recommended"
        present = "the published values"
        if recommended and folder is not None and (folder / PRESET_FILE).exists():
            present = str(folder / PRESET_FILE)
        print(
            f"{len(selection.pairs)} pairs to choose on, {len(confirmation.pairs)} to compare on{failed}, {by}, model "
            f"{self.work.config.model.name}, present preset: {present}",
            flush=True,
        )


def _statistics_of(preset: BottleneckSettings, work: Work, priors: Statistics) -> Statistics | None:
    """Return the statistics that the model's folder needs with the preset; None if it needs none."""
    statistics, used = work.model.statistics, False
    for modality in MODALITIES:
        tower = preset.tower(modality)
        if tower.prior == "data" and tower.layer is not None:
            prior = priors.get(modality, tower.layer)
            assert prior is not None
            statistics, used = statistics.with_prior(modality, tower.layer, prior), True
    return statistics if used else None


def _write(run: RunDirectory, tuning: Tuning, statistics: Statistics | None) -> None:
    atomic_write_text(run.summary, json.dumps(_without_nan(tuning.to_dict()), indent=2) + "\n")
    if statistics is not None:
        statistics.save(run.path / STATISTICS_FILE)
    atomic_write_text(run.report, to_html(tuning))
    write_preset(run.path / PRESET_FILE, tuning.preset, "chosen by task=tune, see report.html of its run")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _how_to_use(work: Work, run: RunDirectory, tuning: Tuning) -> Iterable[str]:
    statistics = run.path / STATISTICS_FILE
    files = [run.path / PRESET_FILE, *([statistics] if statistics.exists() else [])]
    folder = "the model's folder" if work.model.folder is None else f"the model's folder {work.model.folder}"
    yield f"preset       {files[0]}"
    yield f"report       {run.report}"
    if tuning.preset == resolve(work.model.preset, work.model.encoder):
        yield "The preset is the present one: there is nothing to copy."
        return
    yield f"To use it, copy {' and '.join(file.name for file in files)} into {folder},"
    given = f" bottleneck.statistics={statistics}" if statistics.exists() else ""
    yield f"or give --config {files[0]}{given} with your other keys."
