"""Writer of PNG files for the first pairs; the row of each pair names its file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Trainer
from PIL import Image
from typing_extensions import override

from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.grounding_drawing import draw_result
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.directory import heatmap_name


class HeatmapWriter(ResultsCallback):
    """Callback that draws the results whose picture was kept, and stores the file's name in each result.

    It must come before the callbacks that read ``heatmap``.

    Args:
        folder: folder of the PNG files.
        count: number of the source's first pairs to draw; -1 for all.
        draw: function that returns the picture of a result.
    """

    def __init__(self, folder: Path, count: int = -1, draw: Callable[[Any], Image.Image] = draw_result) -> None:
        self.folder = folder
        self.count = count
        self.draw = draw

    @override
    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        for index, result in enumerate(results):
            selected = self.count < 0 or result.pair.position < self.count
            if selected and result.error is None and result.pair.picture is not None:
                name = heatmap_name(result.pair.id, result.pair.key)
                with atomic_write(self.folder / name) as file:
                    self.draw(result).save(file, format="PNG")
                results[index] = result.drawn_as(name)
