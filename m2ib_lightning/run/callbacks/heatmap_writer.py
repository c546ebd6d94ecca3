"""Writer of the drawn pictures of the first pairs; the row of each pair names its file."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Trainer
from PIL import Image
from typing_extensions import override

from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.figures.encoding import FORMATS
from m2ib_lightning.results.grounding_drawing import draw_result
from m2ib_lightning.run.background import BackgroundWork
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.directory import heatmap_name


class HeatmapWriter(ResultsCallback):
    """Callback that draws the results whose picture was kept, and stores the file's name in each result.

    It must come before the callbacks that read ``heatmap``. The pictures are drawn and written in threads. A callback
    that must find the files uses ``BackgroundWork.then`` of the same ``work``, as ``TableWriter`` does.

    Args:
        folder: folder of the files.
        count: number of the source's first pairs to draw; -1 for all.
        draw: function that returns the picture of a result. It is called in a thread.
        format: name of the format, one of ``FORMATS``.
        work: the threads; None for threads of its own.
    """

    def __init__(
        self,
        folder: Path,
        count: int = -1,
        draw: Callable[[Any], Image.Image] = draw_result,
        format: str = "png",
        work: BackgroundWork | None = None,
    ) -> None:
        self.folder = folder
        self.count = count
        self.draw = draw
        self.encoding = FORMATS[format]
        self.work = work or BackgroundWork()

    @override
    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        for index, result in enumerate(results):
            selected = self.count < 0 or result.pair.position < self.count
            if selected and result.error is None and result.pair.picture is not None:
                name = heatmap_name(result.pair.id, result.pair.key, self.encoding.suffix)
                self.work.submit(partial(self._write, result, self.folder / name))
                results[index] = result.drawn_as(name)

    @override
    def finish(self, trainer: Trainer) -> None:
        self.work.drain()

    def _write(self, result: Any, path: Path) -> None:
        picture = self.draw(result)
        with atomic_write(path) as file:
            self.encoding.write(picture, file)
