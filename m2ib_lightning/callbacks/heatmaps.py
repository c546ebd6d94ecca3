"""Draws the first pairs as PNG files; the row then names the file."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from typing_extensions import override

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.base import ResultsCallback
from m2ib_lightning.drawing import draw_attribution
from m2ib_lightning.run_directory import heatmap_name


class HeatmapWriter(ResultsCallback):
    """Draws every result whose picture was kept. Put it before the callbacks that read ``heatmap``.

    Args:
        folder: the run's ``heatmaps``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @override
    def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
        for index, result in enumerate(results):
            if result.error is None and result.pair.picture is not None:
                name = heatmap_name(result.pair.id, result.pair.key)
                draw_attribution(result).save(self.folder / name)
                results[index] = result.drawn_as(name)
