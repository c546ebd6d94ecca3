"""M2IB as a LightningModule whose trainable parameters are the alphas of the current batch."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from typing_extensions import override

from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.run.borrowing_module import BorrowingModule
from m2ib_lightning.run.precision import check_precision
from m2ib_lightning.run.sharding import (
    SamplesStrategy as SamplesStrategy,  # its import registers Trainer(strategy="samples")
)


class M2IBModule(BorrowingModule):
    """LightningModule that explains one batch of pairs per ``training_step``, by manual optimisation.

    A ``training_step`` runs all inner steps of its batch, so ``global_step`` grows by ``settings.steps``. It returns
    ``{"results": [Attribution, ...]}``. Callbacks write the results; the module does no I/O. The model is borrowed: it
    is frozen during ``fit`` and then restored. It is not a submodule, so no checkpoint holds it.

    Args:
        model: the model from ``load_model``.
        settings: settings of the bottlenecks; None for the preset in the model's folder, or the published settings
            if it has none.
        seed: seed of the noise.
        statistics: priors for ``prior="data"``; None for those in the model's folder.
        compile: whether ``torch.compile`` compiles the body of the optimisation loop.

    Raises:
        M2IBError: if a layer is out of range, or has ``prior="data"`` and no statistics.
    """

    def __init__(
        self,
        model: LoadedModel,
        settings: BottleneckSettings | None = None,
        *,
        seed: int = 0,
        statistics: Statistics | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        resolved = resolve(settings or model.preset, model.encoder)
        self.explainer = Explainer(
            model.encoder, resolved, seed=seed, statistics=statistics or model.statistics, compile=compile
        )
        self.bottlenecks = self.explainer.bottlenecks
        self.save_hyperparameters({"model": model.name, "seed": seed, "bottleneck": resolved.to_dict()})

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.explainer.optimizer()

    @override
    def borrow(self) -> AbstractContextManager[None]:
        check_precision(self.trainer.precision_plugin, next(self.bottlenecks.parameters()).dtype)
        return self.explainer.at_work()

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        optimizer: Any = self.optimizers()
        return {"results": self.explainer(batch, optimizer, self.manual_backward)}
