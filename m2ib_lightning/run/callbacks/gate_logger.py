"""Histograms of the gates: how lambda spreads between 0 and 1 over the inner steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from m2ib_lightning.m2ib.bottleneck import InformationBottleneck
from m2ib_lightning.run.loggers.logged_media import log_histogram, shows_histograms

_MOST_ROWS = 64
"""Largest number of rows of the optimisation whose gates are kept."""


class GateLogger(Callback):
    """Callback that logs ``lambda/image`` and ``lambda/text`` at each inner step of the first batch with pairs.

    The gates are those of the tokens that the towers read, of the first 64 rows: pairs, and their copies where the map
    is read along a path. A module without bottlenecks has none. Only rank 0 logs.
    """

    def __init__(self) -> None:
        self._alphas: list[dict[str, torch.Tensor]] = []
        self._finished = False

    @override
    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        if self._finished or not trainer.is_global_zero or not any(map(shows_histograms, trainer.loggers)):
            return
        bottlenecks = getattr(pl_module, "bottlenecks", {})
        alphas = {m: b.alpha.detach()[:_MOST_ROWS].cpu() for m, b in bottlenecks.items() if b.alpha.numel()}
        if all((alpha == bottlenecks[m].initial_alpha).all() for m, alpha in alphas.items()):
            self._alphas.clear()  # the first step, also of an attempt that repeats one without enough memory
        self._alphas.append({m: alpha.clone() for m, alpha in alphas.items()})

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._alphas:
            return
        self._finished = True
        bottlenecks: Any = getattr(pl_module, "bottlenecks", {})
        for m, last in self._alphas[-1].items():
            bottleneck = bottlenecks[m]
            assert isinstance(bottleneck, InformationBottleneck)
            read = (last != bottleneck.initial_alpha).any(-1)  # gates of other tokens get no gradient and never move
            for step, alphas in enumerate(self._alphas):
                values = torch.sigmoid(alphas[m][read]).flatten().numpy()
                if values.size and np.isfinite(values).all():
                    log_histogram(trainer.loggers, f"lambda/{m}", values, step)
        self._alphas.clear()
