"""What a run over pairs logs: values over the pairs done, the mean curve over inner steps, and a few pairs in full.

``self.log`` writes once per batch, so the curves over inner steps go to the loggers directly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from lightning import Trainer
from numpy.typing import NDArray
from typing_extensions import override

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.grounding_drawing import draw_result
from m2ib_lightning.run.callbacks.results_callback import ResultsCallback
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.loggers.logged_media import log_picture, shows_pictures
from m2ib_lightning.run.loggers.tensorboard_layout import Layout

_QUANTITIES = ("loss", "information", "similarity")

PAIRS_LAYOUT: Layout = {
    "Mean over all pairs, by inner step": {
        quantity: [f"mean_curve/{modality}_{quantity}" for modality in MODALITIES] for quantity in _QUANTITIES
    },
    "Mean of each batch, by pairs done": {
        quantity: [f"pairs/{modality}_{quantity}" for modality in MODALITIES] for quantity in _QUANTITIES
    },
    "Single pairs, by inner step": {
        f"{modality} {quantity}": [f"pair/.*/{modality}_{quantity}"]
        for modality in MODALITIES
        for quantity in _QUANTITIES
    },
}
"""TensorBoard's charts of a run over pairs."""


class CurveLogger(ResultsCallback):
    """Callback that logs the values, curves and pictures of a run to the Trainer's loggers.

    ``pairs/*`` has the mean of each batch at the last inner step; its step is the number of pairs done, so it is no
    training curve. ``mean_curve/*`` has the mean over all pairs at each inner step. ``pair/*`` and ``heatmap/*`` have
    the curves and the picture of single pairs. Only rank 0 logs, so only its pairs are shown.

    Args:
        pictures: number of pairs that get their own curves and picture.
        done: number of pairs that earlier launches of the run did.
    """

    def __init__(self, pictures: int = 16, done: int = 0) -> None:
        self.pictures = pictures
        self._done_before = done
        self._drawn = self._done = self._failed = self._optimised = 0
        self._sums: dict[str, NDArray[np.float64]] = {}

    @property
    def _step(self) -> int:
        return self._done_before + self._done

    @override
    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        if not results or not trainer.loggers or not trainer.is_global_zero:
            return
        explained = [result for result in results if result.error is None]
        self._done += len(explained)
        self._failed += len(results) - len(explained)
        values = {"pairs/failed": float(self._failed)}
        if explained:
            values["pairs/similarity"] = float(np.mean([result.similarity for result in explained]))
            curves = [_curves(result) for result in explained]
            values |= self._add_to_means(curves)
            for result, curve in zip(explained, curves, strict=True):
                if self._drawn < self.pictures and result.pair.picture is not None:
                    self._drawn += 1
                    self._log_pair(trainer, result, curve)
        self._log(trainer, values, self._step)

    @override
    def finish(self, trainer: Trainer) -> None:
        if trainer.is_global_zero and self._sums:
            self._log_curves(trainer, "mean_curve", {name: s / self._optimised for name, s in self._sums.items()})

    def _add_to_means(self, curves: Sequence[Mapping[str, NDArray[np.float32]]]) -> dict[str, float]:
        """Add the curves of a batch to the sums; return their mean at the last step."""
        totals = {name: np.stack([curve[name] for curve in curves]).sum(0, dtype=np.float64) for name in curves[0]}
        self._optimised += len(curves) if totals else 0
        for name, total in totals.items():
            self._sums[name] = self._sums[name] + total if name in self._sums else total
        return {f"pairs/{name}": float(total[-1]) / len(curves) for name, total in totals.items()}

    def _log_pair(self, trainer: Trainer, result: Attribution, curves: Mapping[str, NDArray[np.float32]]) -> None:
        name = heatmap_name(result.pair.id, result.pair.key).rpartition(".")[0]
        self._log_curves(trainer, f"pair/{name}", curves)
        if any(map(shows_pictures, trainer.loggers)):
            log_picture(trainer.loggers, f"heatmap/{name}", draw_result(result), self._step)

    def _log_curves(self, trainer: Trainer, group: str, curves: Mapping[str, NDArray[np.floating]]) -> None:
        for step, values in enumerate(zip(*curves.values(), strict=True)):
            named = zip(curves, values, strict=True)
            self._log(trainer, {f"{group}/{name}": float(value) for name, value in named}, step)

    def _log(self, trainer: Trainer, values: dict[str, float], step: int) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(values, step=step)


def _curves(result: Attribution) -> dict[str, NDArray[np.float32]]:
    """Return the curves of both towers by name; empty for a method that does not optimise."""
    curves = {f"{m}_{quantity}": getattr(getattr(result, m), quantity) for m in MODALITIES for quantity in _QUANTITIES}
    return {name: curve for name, curve in curves.items() if curve is not None}
