"""``task=evaluate``: compare attribution methods, pair by pair."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow.parquet as pq
from lightning import Callback, LightningModule
from typing_extensions import override

from m2ib_lightning.config import Config, EvaluateConfig
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.comparison import Comparison, compare
from m2ib_lightning.evaluation.comparison_report import to_markdown, write_evaluation
from m2ib_lightning.evaluation.evaluator import Evaluator
from m2ib_lightning.evaluation.measures import check_groups
from m2ib_lightning.evaluation.pictures import draw_comparison
from m2ib_lightning.evaluation.scores import SCORES_SCHEMA, count, load_scores
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods import METHODS
from m2ib_lightning.methods.m2ib import bottlenecks_of
from m2ib_lightning.run.callbacks import HeatmapWriter, TableWriter
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.method_module import MethodModule
from m2ib_lightning.run.summary import Summary
from m2ib_lightning.run.table import parts
from m2ib_lightning.tasks.over_pairs import PairTask, run_over_pairs
from m2ib_lightning.tasks.pairs_start import PairsStart
from m2ib_lightning.tasks.work import Work


class Evaluate(PairTask):
    """Each pair's scores, by every method."""

    rows = "scores"
    activity = "Evaluating"

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
        twice = {name for name in methods if methods.count(name) > 1}
        if twice or not methods:
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
        return [
            HeatmapWriter(start.run.heatmaps, work.config.evaluate.pictures, draw_comparison),
            TableWriter(start.run.table, start.launch.number, schema=SCORES_SCHEMA, count=count),
        ]

    @override
    def report(self, config: Config, run: RunDirectory, summary: Summary) -> None:
        comparison = comparison_of(config, run)
        notes = list(_notes(config, run, comparison))
        path = write_evaluation(run, summary, comparison, notes)
        print(f"\n{to_markdown(comparison, notes)}\ncomparison   {path}", flush=True)


def evaluate(config: Config) -> int:
    """Score every pair of the data source, or this rank's share of them; returns the exit status."""
    return run_over_pairs(config, Evaluate())


def methods_of(config: Config) -> list[str]:
    """Those asked for, or all that there are, the baseline first."""
    options = config.evaluate
    if options.methods is not None:
        return list(options.methods)
    ready = [name for name in METHODS if not METHODS.get(name).trained]
    return sorted(ready, key=lambda name: (name != options.baseline, name))


def comparison_of(config: Config, run: RunDirectory) -> Comparison:
    """Of the rows that are there."""
    options = config.evaluate
    return compare(
        load_scores(run.path),
        methods_of(config),
        options.baseline,
        resamples=options.resamples,
        seed=config.seed,
    )


def _notes(config: Config, run: RunDirectory, comparison: Comparison) -> Iterator[str]:
    """What a reader must know."""
    groups = check_groups(config.evaluate.metrics)
    if "localisation" in groups and "image_pointing" not in comparison.estimates:
        yield (
            "The source has no masks: how maps lie on what captions name was left out (data.mask_column or "
            "data.box_column names them)."
        )
    if "localisation" in groups and "text_auroc" not in comparison.estimates:
        yield "The source does not say which words are content: the words' AUROC was left out."
    if "probes" in groups and config.evaluate.probed and "prompt_present" not in comparison.estimates:
        tried = "on gibberish and on other pairs' captions only"
        which = tried if "prompt_gibberish" in comparison.estimates else "on no other caption (a stream has none)"
        yield f"The source names no other objects: maps were tried {which}."
    resized, failures = 0, list[str]()
    for part in parts(run.table):
        table = pq.read_table(part, columns=["mask_resized", "failures"])
        resized += sum(map(bool, table["mask_resized"].to_pylist()))
        failures += [line for lines in table["failures"].to_pylist() for line in lines or ()]
    if resized:
        yield f"{resized} masks had another size than their pictures and were resized."
    for line in failures[:5]:
        yield f"failed on a pair: {line}"
    if len(failures) > 5:
        yield f"... and {len(failures) - 5} more failures, in the table."
