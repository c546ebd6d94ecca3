"""M2IB as a LightningModule: its trainable parameters are the alphas of the batch in hand."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from m2ib_lightning.m2ib.explainer import Explainer, resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.run.precision import check_precision
from m2ib_lightning.run.sharding import (
    SamplesStrategy as SamplesStrategy,  # so that Trainer(strategy="samples") is known
)


class M2IBModule(LightningModule):
    """One ``training_step`` explains one batch: all inner steps, by manual optimisation.

    ``global_step`` grows by ``settings.steps`` a batch. A step returns ``{"results": [Attribution, ...]}``, which the
    callbacks write: the module does no I/O. The model is lent, frozen from the start of ``fit`` to its end, and given
    back as it was; it is no submodule, so no checkpoint holds it.

    Args:
        model: from ``load_model``.
        settings: None for what the model's folder recommends, else the published ones.
        seed: keys the noise.
        statistics: priors for ``prior="data"``; those of the model's folder are known already.
        compile: whether ``torch.compile`` compiles the body of the loop.

    Raises:
        M2IBError: on a layer out of range, or a prior without statistics.
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
        self.automatic_optimization = False
        resolved = resolve(settings or model.preset, model.encoder)
        self.explainer = Explainer(
            model.encoder, resolved, seed=seed, statistics=statistics or model.statistics, compile=compile
        )
        self.bottlenecks = self.explainer.bottlenecks
        self.save_hyperparameters({"model": model.name, "seed": seed, "bottleneck": resolved.to_dict()})
        self._lent = ExitStack()

    @override
    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.explainer.optimizer()

    @override
    def configure_callbacks(self) -> list[Callback]:
        return [GiveModelBack()]

    @override
    def on_fit_start(self) -> None:
        check_precision(self.trainer.precision_plugin, next(self.bottlenecks.parameters()).dtype)
        self._lent.enter_context(self.explainer.at_work())

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> dict[str, Any]:
        optimizer: Any = self.optimizers()
        return {"results": self.explainer(batch, optimizer, self.manual_backward)}

    def give_model_back(self) -> None:
        """End the loan that began with ``fit``."""
        self._lent.close()


class GiveModelBack(Callback):
    """Gives the model back at the end of ``fit``, also after an exception or Ctrl-C."""

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._give_back(pl_module)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._give_back(pl_module)

    @staticmethod
    def _give_back(module: LightningModule) -> None:
        give_back: Any = module.give_model_back
        give_back()
