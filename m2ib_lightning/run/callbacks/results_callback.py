"""Base class of the callbacks that write results."""

from __future__ import annotations

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from m2ib_lightning.errors import escaped


class ResultsCallback(Callback):
    """Callback that receives the results of each batch.

    ``on_results`` is called after each batch, with the list that ``training_step`` returned. A callback may replace
    items, and the callbacks after it see the replacements. ``finish`` is called at the end of the run, also after an
    interruption.
    """

    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        """Write the results of one batch."""

    def finish(self, trainer: Trainer) -> None:
        """Write buffered results; called at the end of the run."""

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.on_results(trainer, outputs["results"])

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.finish(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        try:
            self.finish(trainer)
        except Exception as error:  # must not hide the first error, nor stop the other callbacks
            text = f"{type(self).__name__} could not finish: {type(error).__name__}: {error}"
            print(escaped(text), file=sys.stderr)
