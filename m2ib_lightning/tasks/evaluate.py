"""``task=evaluate``: compare attribution methods, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from typing_extensions import override

from m2ib_lightning.config import Config, EvaluateConfig
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.comparison import Comparison, compare
from m2ib_lightning.evaluation.comparison_page import write_comparison_page
from m2ib_lightning.evaluation.comparison_report import GROUP_QUESTIONS, to_markdown, write_evaluation
from m2ib_lightning.evaluation.cosine_curves import mean_curves
from m2ib_lightning.evaluation.evaluator import Evaluator
from m2ib_lightning.evaluation.maps_writer import MapsWriter
from m2ib_lightning.evaluation.measures import check_groups
from m2ib_lightning.evaluation.pictures import draw_comparison
from m2ib_lightning.evaluation.scores import SCORES_SCHEMA, count, load_scores
from m2ib_lightning.files import first_line
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods import METHODS
from m2ib_lightning.methods.m2ib import bottlenecks_of
from m2ib_lightning.run.background import BackgroundWork
from m2ib_lightning.run.callbacks import HeatmapWriter, TableWriter
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.method_module import MethodModule
from m2ib_lightning.run.parts import read_part
from m2ib_lightning.run.summary import Summary
from m2ib_lightning.run.table import parts
from m2ib_lightning.tasks.over_pairs import PairTask, run_over_pairs
from m2ib_lightning.tasks.pairs_start import PairsStart
from m2ib_lightning.tasks.work import Work


class Evaluate(PairTask):
    """Task that scores the maps of several methods on each pair."""

    rows = "scores"
    activity = "Evaluating"
    logged = ("pairs_done", "pairs_failed", "pairs_per_second", "seconds")  # its table has no means of pairs

    def __init__(self) -> None:
        self._findings: tuple[dict[str, float], dict[str, str]] = {}, {}

    @override
    def bottlenecks(self, work: Work) -> list[BottleneckSettings]:
        options = work.config.evaluate
        for name, value, least in (
            ("probed", options.probed, 0),
            ("seeds", options.seeds, 1),
            ("resamples", options.resamples, 2),
            ("pictures", options.pictures, 0),
        ):
            if value < least:
                raise M2IBError(f"evaluate.{name} must be at least {least}, got {value}")
        check_groups(options.metrics)
        methods = methods_of(work.config)
        if not methods or len(set(methods)) < len(methods):
            raise M2IBError(f"evaluate.methods must name methods, each once, got {methods}")
        if options.baseline not in methods and options.baseline != EvaluateConfig.baseline:
            raise M2IBError(f"evaluate.baseline={options.baseline!r} is none of the methods: {', '.join(methods)}")
        return bottlenecks_of(methods, work.context())

    @override
    def module(self, work: Work, start: PairsStart) -> LightningModule:
        options = work.config.evaluate
        methods = methods_of(work.config)
        evaluator = Evaluator(
            work.context(start.statistics),
            methods,
            check_groups(options.metrics),
            work.datamodule.preparer,
            probed=options.probed,
            seeds=options.seeds,
        )
        return MethodModule(evaluator, {"model": work.model.name, "methods": ", ".join(methods)})

    @override
    def writers(self, work: Work, start: PairsStart) -> list[Callback]:
        config, run, background = work.config, start.run, BackgroundWork()
        return [
            HeatmapWriter(run.heatmaps, config.evaluate.pictures, draw_comparison, config.output.format, background),
            MapsWriter(run, start.launch.number, config.evaluate.pictures),
            TableWriter(run.table, start.launch.number, schema=SCORES_SCHEMA, count=count, work=background),
        ]

    @override
    def report(self, config: Config, run: RunDirectory, summary: Summary) -> None:
        comparison = comparison_of(config, run)
        notes = list(_notes(config, run, comparison))
        path = write_evaluation(run, summary, comparison, notes)
        table = to_markdown(comparison, notes)
        print(f"\n{table}\ncomparison   {path}", flush=True)
        means = comparison.estimates.items()
        tags = {f"evaluation/{name}/{method}": e.mean for name, by in means for method, e in by.items()}
        self._findings = tags, {"evaluation/table": table}

    @override
    def findings(self) -> tuple[dict[str, float], dict[str, str]]:
        return self._findings


def evaluate(config: Config) -> int:
    """Score the methods on every pair of the data source, or on this rank's share; return the exit status."""
    return run_over_pairs(config, Evaluate())


def rewrite_page(run: RunDirectory, summary: Summary, values: dict[str, Any], most: int | None) -> list[Path]:
    """Write the page of an evaluation again, from its table; return the paths of the pages.

    Args:
        run: the run directory.
        summary: the summary of the run.
        values: the keys and values of its ``config.yaml``.
        most: largest number of pairs on the pages; None for all.

    Raises:
        M2IBError: if the values are not those of a configuration.
    """
    try:
        merged = OmegaConf.unsafe_merge(OmegaConf.structured(Config), values)
        config = cast(Config, OmegaConf.to_object(merged))
    except OmegaConfBaseException as error:
        raise M2IBError(f"{run.config} is not the configuration of a run: {first_line(error)}") from None
    comparison = comparison_of(config, run)
    notes = list(_notes(config, run, comparison))
    return write_comparison_page(run, summary, comparison, notes, GROUP_QUESTIONS, most)


def methods_of(config: Config) -> list[str]:
    """Return the names of the methods to compare; by default all that need no training, the baseline first."""
    options = config.evaluate
    if options.methods is not None:
        return list(options.methods)
    untrained = [name for name in METHODS if not METHODS.get(name).trained]
    return sorted(untrained, key=lambda name: (name != options.baseline, name))


def comparison_of(config: Config, run: RunDirectory) -> Comparison:
    """Return the comparison of the methods, computed from the rows of a run."""
    options, methods = config.evaluate, methods_of(config)
    draws = {"resamples": options.resamples, "seed": config.seed}
    comparison = compare(load_scores(run.path), methods, options.baseline, **draws)
    return replace(comparison, curves=mean_curves(run.path, methods, **draws))


def _notes(config: Config, run: RunDirectory, comparison: Comparison) -> Iterator[str]:
    """Yield the notes that a reader of the comparison needs."""
    groups = check_groups(config.evaluate.metrics)
    if "localisation" in groups and "image_pointing" not in comparison.estimates:
        yield (
            "The source has no masks, so the localisation of image maps was left out. data.mask_column or "
            "data.box_column names those of a table, data.instances those of COCO."
        )
    if "localisation" in groups and "text_auroc" not in comparison.estimates:
        yield "The source does not mark content words, so their AUROC was left out."
    if "probes" in groups and config.evaluate.probed and "prompt_present" not in comparison.estimates:
        fallback = "gibberish and other pairs' captions alone"
        captions = fallback if "prompt_gibberish" in comparison.estimates else "no other caption (a stream has none)"
        yield f"The source names no other objects: prompt sensitivity was tried on {captions}."
    resized, failures = 0, list[str]()
    for part in parts(run.table):
        table = read_part(part, ["mask_resized", "failures"])
        resized += sum(map(bool, table["mask_resized"].to_pylist()))
        failures += [line for lines in table["failures"].to_pylist() for line in lines or ()]
    if resized:
        yield f"{resized} masks differed in size from their pictures and were resized."
    for line in failures[:5]:
        yield f"A method failed on a pair: {line}"
    if len(failures) > 5:
        yield f"... and {len(failures) - 5} more failures, in the table."
