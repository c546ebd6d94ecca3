"""The metrics of a training, line by line, for its page: ``metrics.jsonl``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from typing_extensions import override

NAME = "metrics.jsonl"
"""Name of the file in the run directory."""

_POINTS = 1000
"""Largest number of steps whose ``train/*`` is kept; they are evenly spaced."""


class MetricsFile(Callback):
    """Callback that appends ``train/*`` at evenly spaced steps, and ``val/*`` of each validation, on rank 0.

    Args:
        path: path of the file. A resumed training appends to it, and repeats the steps after its checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._last = -1
        self._every = 1

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        total = trainer.estimated_stepping_batches
        self._every = max(1, math.ceil(total / _POINTS)) if math.isfinite(total) else 10

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and step != self._last and (step % self._every == 0 or step == 1):
            self._last = step
            self._append(step, "train/", trainer.callback_metrics)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            self._append(trainer.global_step, "val/", trainer.callback_metrics)

    def _append(self, step: int, prefix: str, metrics: Mapping[str, Tensor]) -> None:
        values = {name: float(value) for name, value in metrics.items() if name.startswith(prefix)}
        finite = {name: float(f"{value:.6g}") for name, value in values.items() if math.isfinite(value)}
        if finite:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step} | finite) + "\n")


def read_metrics(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the steps and values of each metric, in rising order of steps.

    A later line of a step replaces an earlier one. Lines that are not whole are left out.
    """
    curves: dict[str, dict[int, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            values = json.loads(line)
            step = int(values.pop("step"))
        except (ValueError, TypeError, AttributeError, KeyError):  # the last line of a process that was killed
            continue
        for name, value in values.items():
            if isinstance(value, int | float):
                curves.setdefault(name, {})[step] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}
