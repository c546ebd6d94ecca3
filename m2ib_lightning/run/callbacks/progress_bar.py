"""Progress bar with the rate in pairs per second."""

from __future__ import annotations

import sys
import time
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar
from typing_extensions import override


class PairProgressBar(TQDMProgressBar):
    """Lightning's progress bar, with the rate in pairs per second instead of batches.

    Args:
        doing: label in front of the bar.
    """

    def __init__(self, doing: str = "Explaining") -> None:
        super().__init__(refresh_rate=1 if sys.stdout.isatty() else 25)  # a log file needs fewer lines
        self.doing = doing
        self._pairs = 0
        self._start = 0.0

    @override
    def on_train_start(self, *args: Any) -> None:
        super().on_train_start(*args)
        self._start = time.monotonic()

    @override
    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        super().on_train_epoch_start(trainer, *args)
        self.train_progress_bar.set_description(self.doing)  # instead of "Epoch 0": there is only one

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._pairs += len(outputs["results"])
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    @override
    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        rate = self._pairs / max(time.monotonic() - self._start, 1e-9)
        return {"pairs": self._pairs, "pairs/s": f"{rate:.2f}"}
