"""Any attribution method as a LightningModule, so that it has the data, the ranks and the writers of M2IB."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from typing import Any, Protocol

import torch
from lightning import Callback, LightningModule
from torch import nn
from typing_extensions import override

from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.run.m2ib_module import GiveModelBack


class Worker(Protocol):
    """What is done with a batch: a ``Method``, or the evaluation of several."""

    def at_work(self, device: torch.device, dtype: torch.dtype) -> AbstractContextManager[None]:
        """Inside, it may be called."""

    def __call__(self, batch: PairBatch, /) -> list[Any]:
        """One result per pair, in source order."""


class MethodModule(LightningModule):
    """One ``training_step`` is one batch; nothing is trained by Lightning's optimisers.

    As with ``M2IBModule``, a step returns ``{"results": [...]}``, the model is lent from the start of ``fit`` to its
    end, and no checkpoint holds it.

    Args:
        worker: what is done with a batch.
        hyperparameters: plain types, for the logger.
    """

    def __init__(self, worker: Worker, hyperparameters: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.worker = worker
        self.where = nn.Parameter(torch.empty(0))  # Lightning moves and casts it: the device and the type to work in
        self.save_hyperparameters(hyperparameters or {})
        self._lent = ExitStack()

    @override
    def configure_optimizers(self) -> None:
        return None

    @override
    def configure_callbacks(self) -> list[Callback]:
        return [GiveModelBack()]

    @override
    def on_fit_start(self) -> None:
        self._lent.enter_context(self.worker.at_work(self.where.device, self.where.dtype))

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        return {"results": self.worker(batch)}

    def give_model_back(self) -> None:
        """End the loan that began with ``fit``."""
        self._lent.close()
