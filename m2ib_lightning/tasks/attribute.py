"""``task=attribute``: explain pairs and write the run directory."""

from __future__ import annotations

from lightning import Callback, LightningModule
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.methods import make_method, parse_method
from m2ib_lightning.methods.m2ib import bottlenecks_of
from m2ib_lightning.run.background import BackgroundWork
from m2ib_lightning.run.callbacks import (
    CurveLogger,
    FormingLogger,
    GateLogger,
    HeatmapWriter,
    TableWriter,
    ThumbnailWriter,
)
from m2ib_lightning.run.callbacks.curve_logger import PAIRS_LAYOUT
from m2ib_lightning.run.loggers import LayoutWriter
from m2ib_lightning.run.m2ib_module import M2IBModule
from m2ib_lightning.run.method_module import MethodModule
from m2ib_lightning.tasks.over_pairs import PairTask, run_over_pairs
from m2ib_lightning.tasks.pairs_start import PairsStart
from m2ib_lightning.tasks.work import Work


class Attribute(PairTask):
    """Task that explains each pair with one attribution method."""

    @override
    def bottlenecks(self, work: Work) -> list[BottleneckSettings]:
        return bottlenecks_of([work.config.method.name], work.context())

    @override
    def module(self, work: Work, start: PairsStart) -> LightningModule:
        name = work.config.method.name
        context = work.context(start.statistics)
        kind, options = parse_method(name)
        if kind != "m2ib" or "smooth" in options:
            return MethodModule(make_method(name, context), {"model": work.model.name, "method": name})
        (settings,) = bottlenecks_of([name], context)
        return M2IBModule(
            work.model,
            settings,
            seed=work.config.seed,
            statistics=start.statistics,
            compile=work.config.model.compile,
        )

    @override
    def writers(self, work: Work, start: PairsStart) -> list[Callback]:
        output, background = work.config.output, BackgroundWork()
        return [  # the first one names the files, which the others read
            HeatmapWriter(start.run.heatmaps, output.heatmaps, format=output.format, work=background),
            ThumbnailWriter(start.run, start.launch.number, output.heatmaps, background),
            TableWriter(start.run.table, start.launch.number, work=background),
            CurveLogger(output.tensorboard_images, start.done),
            *([FormingLogger(min(4, output.tensorboard_images)), GateLogger()] if output.tensorboard_images else []),
            LayoutWriter(PAIRS_LAYOUT),
        ]


def attribute(config: Config) -> int:
    """Explain every pair of the data source, or this rank's share of them; return the exit status."""
    return run_over_pairs(config, Attribute())
