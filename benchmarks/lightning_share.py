"""Measures Lightning's share of a run's loop: the time outside tensor work, within one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from m2ib_lightning import M2IBModule
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch, RawPair

BATCHES, SIZE = 2, 4


class _Stopwatch:
    """Sums the seconds between ``start`` and ``stop``."""

    def __init__(self) -> None:
        self.total = 0.0
        self._since = 0.0

    def start(self) -> None:
        self._since = time.perf_counter()

    def stop(self) -> None:
        self.total += time.perf_counter() - self._since


class _TimedAdam(torch.optim.Adam):
    watch = _Stopwatch()

    @override
    def step(self, closure: Any = None) -> Any:
        self.watch.start()
        super().step(closure)
        self.watch.stop()


class _TimedModule(M2IBModule):
    """Times the loop, and what Lightning adds around each step, each backward call and each optimiser step."""

    def __init__(self, model: LoadedModel) -> None:
        super().__init__(model)
        self.loop, self.inner, self.gradient, self.outer = (_Stopwatch() for _ in range(4))

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return _TimedAdam(self.bottlenecks.parameters(), lr=self.explainer.settings.lr)

    @override
    def on_train_start(self) -> None:
        self.loop.start()

    @override
    def on_train_end(self) -> None:
        self.loop.stop()

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        self.inner.start()
        wrapped: Any = self.optimizers()
        timed: Any = _Outer(wrapped, self.outer)
        result = {"results": self.explainer(batch, timed, self._manual_backward)}
        self.inner.stop()
        return result

    def _manual_backward(self, loss: Tensor) -> None:
        self.outer.start()
        self.manual_backward(loss)
        self.outer.stop()

    @override
    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        self.gradient.start()
        loss.backward()
        self.gradient.stop()

    @property
    def share(self) -> float:
        """Lightning's seconds, as a share of the loop's."""
        around_calls = self.outer.total - self.gradient.total - _TimedAdam.watch.total
        return (self.loop.total - self.inner.total + around_calls) / self.loop.total


class _Outer:
    """Lightning's optimiser with a timed ``step``."""

    def __init__(self, optimizer: Any, watch: _Stopwatch) -> None:
        self._optimizer = optimizer
        self._watch = watch

    def step(self) -> None:
        self._watch.start()
        self._optimizer.step()
        self._watch.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)


def lightning_share(
    model: LoadedModel, make_pairs: Callable[[LoadedModel, int], list[RawPair]], device: torch.device
) -> dict[str, float]:
    """Explain two batches of prepared pairs with a Trainer without callbacks and loggers; return the share."""
    preparer = model.preparer
    prepared = [preparer.prepare(pair, keep_picture=False) for pair in make_pairs(model, BATCHES * SIZE)]
    loader: DataLoader[Any] = DataLoader(prepared, batch_size=SIZE, collate_fn=preparer.collate)  # type: ignore[arg-type]
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = _TimedModule(model)
    trainer.fit(module, loader)
    return {"share": module.share, "seconds": module.loop.total, "batch": SIZE}
