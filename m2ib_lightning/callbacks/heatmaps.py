"""Draws the first pairs as PNG files; the row then names the file."""

from __future__ import annotations

from pathlib import Path

from lightning import Trainer
from typing_extensions import override

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.base import ResultsCallback
from m2ib_lightning.drawing import draw_attribution
from m2ib_lightning.files import whole_file
from m2ib_lightning.run_directory import heatmap_name


class HeatmapWriter(ResultsCallback):
    """Draws every result whose picture was kept. Put it before the callbacks that read ``heatmap``.

    Args:
        folder: the run's ``heatmaps``.
        count: how many of the source's first pairs to draw; -1 for all.
    """

    def __init__(self, folder: Path, count: int = -1) -> None:
        self.folder = folder
        self.count = count

    @override
    def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
        for index, result in enumerate(results):
            wanted = self.count < 0 or result.pair.position < self.count
            if wanted and result.error is None and result.pair.picture is not None:
                name = heatmap_name(result.pair.id, result.pair.key)
                with whole_file(self.folder / name) as file:
                    draw_attribution(result).save(file, format="PNG")
                results[index] = result.drawn_as(name)
