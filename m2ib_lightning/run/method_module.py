"""LightningModule for any attribution method; it shares the data, ranks and writers of M2IB."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn
from typing_extensions import override

from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.run.borrowing_module import BorrowingModule


class Worker(Protocol):
    """Callable that turns a batch into results: a ``Method``, or the evaluation of several methods."""

    def at_work(self, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Return the context in which the worker can be called."""

    def __call__(self, batch: PairBatch, /) -> list[Any]:
        """Return one result per pair, in source order."""


class MethodModule(BorrowingModule):
    """LightningModule that calls a worker on one batch per ``training_step``, without an optimiser.

    A ``training_step`` returns ``{"results": [...]}``, like that of ``M2IBModule``.

    Args:
        worker: callable that turns a batch into results.
        hyperparameters: plain values for the logger; None for no values.
    """

    def __init__(self, worker: Worker, hyperparameters: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.worker = worker
        self.placeholder = nn.Parameter(torch.empty(0))  # Lightning moves and casts it: the Trainer's device and dtype
        self.save_hyperparameters(hyperparameters or {})

    @override
    def configure_optimizers(self) -> None:
        return None

    @override
    def borrow(self) -> AbstractContextManager[None]:
        return self.worker.at_work(self.placeholder.device, self.placeholder.dtype)

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        return {"results": self.worker(batch)}
