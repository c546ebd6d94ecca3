"""What the writers have in common: they are handed the results of a batch, and told when the run is over."""

from __future__ import annotations

import sys
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override


class ResultsCallback(Callback):
    """Calls ``on_results`` after each batch and ``finish`` at the end, also when the run was interrupted.

    The list of results is the one that ``training_step`` returned: a callback may replace items, and those after it
    see the replacements.
    """

    def on_results(self, trainer: Trainer, results: list[Any]) -> None:
        """Write what came of one batch."""

    def finish(self, trainer: Trainer) -> None:
        """Write what is left; called once."""

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
        except Exception as error:  # it must not hide the first one, nor stop the other callbacks
            print(f"{type(self).__name__} could not finish: {type(error).__name__}: {error}", file=sys.stderr)
