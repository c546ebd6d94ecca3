"""Overlays as they form: the map of a pair on its picture, after each inner step."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from PIL import Image
from typing_extensions import override

from m2ib_lightning.m2ib.explainer import Explainer
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import fitted, overlay
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.loggers.logged_media import log_picture, shows_pictures

_SIDE = 224
"""Longer side of an overlay, in pixels."""


class FormingLogger(Callback):
    """Callback that logs ``forming/NAME``, the overlays of a few pairs after each inner step.

    The pairs are those of the first batch that keeps pictures. The overlay after step k is that of a run of k steps,
    in colours of its own range. A module that does not optimise has none. Only rank 0 logs.

    Args:
        count: largest number of pairs.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count
        self._finished = False
        self._steps: list[list[Attribution]] = []

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        explainer = getattr(pl_module, "explainer", None)
        shown = trainer.is_global_zero and any(map(shows_pictures, trainer.loggers))
        if isinstance(explainer, Explainer) and shown and not self._finished:
            explainer.on_step = self._collect

    def _collect(self, results: list[Attribution]) -> None:
        drawn = [result for result in results if result.image is not None and result.pair.picture is not None]
        curves = [result.image.loss for result in drawn if result.image is not None and result.image.loss is not None]
        if curves and len(curves[0]) == 1:
            self._steps.clear()  # the first step, also of an attempt that repeats one without enough memory
        self._steps.append(drawn[: self.count])

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        explainer = getattr(pl_module, "explainer", None)
        if isinstance(explainer, Explainer):
            explainer.on_step = None
        for step, results in enumerate(self._steps):
            for result in results:
                self._finished = True
                name = heatmap_name(result.pair.id, result.pair.key).rpartition(".")[0]
                log_picture(trainer.loggers, f"forming/{name}", _overlay(result), step)
        self._steps.clear()


def _overlay(result: Attribution) -> Image.Image:
    picture = result.pair.picture
    assert picture is not None
    return overlay(result, picture.resize(fitted(picture.size, _SIDE), Image.Resampling.BICUBIC))
