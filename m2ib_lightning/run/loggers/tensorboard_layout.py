"""The page *Custom scalars* of TensorBoard: curves that belong together share a chart."""

from __future__ import annotations

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from typing_extensions import override

Layout = dict[str, dict[str, list[str]]]
"""Patterns of tags by group, then by chart."""


class LayoutWriter(Callback):
    """Callback that writes the layout of the charts, once, when the work starts.

    Args:
        layout: patterns of tags by group, then by chart.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        charts = {
            group: {title: ["Multiline", tags] for title, tags in of_group.items()}
            for group, of_group in self.layout.items()
        }
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(charts)
