"""TensorBoard output: final values, the mean curve over inner steps, and curves and pictures of a few pairs.

``self.log`` writes once per batch, so the curves over inner steps go through the logger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from typing_extensions import override

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.grounding_drawing import draw_result
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback

_QUANTITIES = ("loss", "information", "similarity")


class CurveLogger(ResultsCallback):
    """Callback that logs the values, curves and pictures of a run to TensorBoard.

    ``final/*`` has the mean of each batch at the last inner step; its step is the number of pairs done.
    ``mean_curve/*`` has the mean over all pairs at each inner step. ``pair/*`` and ``heatmap/*`` have the curves and
    the picture of single pairs. Only rank 0 logs, so only its pairs are shown.

    Args:
        pictures: number of pairs that get their own curves and picture.
        done: number of pairs that earlier launches of the run did.
    """

    def __init__(self, pictures: int = 16, done: int = 0) -> None:
        self.pictures = pictures
        self._done_before = done
        self._drawn = self._done = 0
        self._sums: dict[str, NDArray[np.float64]] = {}

    @override
    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        explained = [result for result in results if result.error is None]
        if not explained or not trainer.is_global_zero:
            return
        curves = [_curves(result) for result in explained]
        totals = {name: np.stack([curve[name] for curve in curves]).sum(0, dtype=np.float64) for name in curves[0]}
        self._done += len(explained)
        for name, total in totals.items():
            self._sums[name] = self._sums[name] + total if name in self._sums else total
            self._log_scalar(trainer, f"final/{name}", total[-1] / len(explained), self._done_before + self._done)
        for result, curve in zip(explained, curves, strict=True):
            if self._drawn < self.pictures and result.pair.picture is not None:
                self._drawn += 1
                self._log_pair(trainer, result, curve)

    @override
    def finish(self, trainer: Trainer) -> None:
        for name, total in self._sums.items():
            self._log_curve(trainer, f"mean_curve/{name}", total / self._done)

    def _log_pair(self, trainer: Trainer, result: Attribution, curves: Mapping[str, NDArray[np.float32]]) -> None:
        name = result.heatmap.rpartition(".")[0] if result.heatmap else f"pair-{self._drawn}"
        for quantity, curve in curves.items():
            self._log_curve(trainer, f"pair/{name}/{quantity}", curve)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                picture = np.asarray(draw_result(result))
                logger.experiment.add_image(
                    f"heatmap/{name}", picture, self._done_before + self._done, dataformats="HWC"
                )

    def _log_curve(self, trainer: Trainer, name: str, values: NDArray[np.floating]) -> None:
        for step, value in enumerate(values):
            self._log_scalar(trainer, name, value, step)

    def _log_scalar(self, trainer: Trainer, name: str, value: float, step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics({name: float(value)}, step=step)


def _curves(result: Attribution) -> dict[str, NDArray[np.float32]]:
    """Return the curves of both towers by name; empty for a method that does not optimise."""
    curves = {f"{m}_{quantity}": getattr(getattr(result, m), quantity) for m in MODALITIES for quantity in _QUANTITIES}
    return {name: curve for name, curve in curves.items() if curve is not None}
