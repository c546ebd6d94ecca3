"""Fine-tuning an image-text model with a bottleneck in each tower, as a LightningModule."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.finetuning.batch_loss import batch_loss
from m2ib_lightning.finetuning.checkpoint import check_checkpoint, drop_frozen
from m2ib_lightning.finetuning.lora import add_adapters
from m2ib_lightning.finetuning.maps import draw
from m2ib_lightning.finetuning.network import BottleneckedModel
from m2ib_lightning.finetuning.options import check_options, loss_name, trained_names
from m2ib_lightning.finetuning.ranks import Ranks
from m2ib_lightning.finetuning.reach import reached_weights
from m2ib_lightning.finetuning.sharded import shard
from m2ib_lightning.finetuning.training_noise import pair_noise
from m2ib_lightning.finetuning.training_optimizer import optimizer_and_schedule
from m2ib_lightning.finetuning.validation import Validation
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch


class IBClipModule(LightningModule):
    r"""Trains :math:`L + \beta_{image} I_{image} + \beta_{text} I_{text}` with the bottlenecks' noise on.

    L is the model's own loss over the global batch, or M2IB's similarity. I is the mean information of the pictures,
    or of the captions and their hard negatives, in nats per token and channel. The noise of a pair is keyed by the
    seed, the epoch and the pair's key, so ranks and batches do not change it. Validation has no noise unless
    ``finetune.sampled`` is set.

    Args:
        model: from ``load_model``; it is trained in place.
        options: ``finetune.*``; None for the defaults.
        settings: settings of the bottleneck; None for those of the model folder.
        enabled: whether the towers get bottlenecks.
        seed: seed of the noise, and of the first weights of heads and adapters.
        statistics: priors for ``prior="data"``; None for those of the model folder.

    Attributes:
        network: the model and its bottlenecks.
        loaded: the model that was passed in, with its processor and preset.
        home: dtype of the weights as they were loaded and will be saved.
        loss_name: ``contrastive``, ``sigmoid`` or ``similarity``.
        has_stepped: whether this object has done an optimiser step, so that a resumed state has proved usable.

    Raises:
        M2IBError: if an option does not exist, or nothing is left to train.
    """

    def __init__(
        self,
        model: LoadedModel,
        options: FinetuneConfig | None = None,
        settings: BottleneckSettings | None = None,
        *,
        enabled: bool = True,
        seed: int = 0,
        statistics: Statistics | None = None,
    ) -> None:
        super().__init__()
        self.options = options = options or FinetuneConfig()
        check_options(options, model, enabled)
        self.loaded = model
        self.home = model.dtype
        model.encoder.model.to(torch.promote_types(model.dtype, torch.float32))  # half weights lose small steps
        if options.train == "lora":
            add_adapters(model.encoder, options.rank, seed)
        self.seed = seed
        self.settings = resolve(settings or model.preset, model.encoder)
        self.loss_name = loss_name(options, model)
        statistics = statistics or model.statistics
        statistics.check(model.encoder, "statistics")
        self.network = BottleneckedModel(
            model.encoder,
            self.settings,
            options.mask if enabled else None,
            statistics,
            options.hidden,
            seed,
            clean=self.loss_name == "similarity",
        )
        self._freeze()
        self.strict_loading = False  # checkpoints hold no frozen weights
        self._validation = Validation(self.network, model, options, statistics, seed)
        self.has_stepped = False
        self._started: float | None = None
        self._seconds_before = 0.0
        self.save_hyperparameters(
            {
                "model": model.name,
                "seed": seed,
                "enabled": enabled,
                "bottleneck": self.settings.to_dict(),
                "finetune": dict(vars(options)),
            }
        )

    def _freeze(self) -> None:
        trained = set(trained_names(self.loaded, self.options.train))
        # DDP would wait for the gradient of a parameter that the loss does not read.
        if trained:
            self.network.model.requires_grad_(True)
            trained &= reached_weights(self.loaded) | ({"logit_bias"} if self.loss_name == "sigmoid" else set())
        for name, parameter in self.network.model.named_parameters():
            parameter.requires_grad_(name in trained)
        self.network.model.train(bool(trained))

    @property
    def seconds(self) -> float:
        """Seconds of training so far, including those before the checkpoint that was resumed."""
        return self._seconds_before + (0.0 if self._started is None else time.monotonic() - self._started)

    @override
    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh["data_parallel"])

    @override
    def configure_optimizers(self) -> Any:
        return optimizer_and_schedule(self.network, self.options, int(self.trainer.estimated_stepping_batches))

    @override
    def on_train_start(self) -> None:
        self._started = time.monotonic()

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        outputs = self.network(batch.inputs, pair_noise(self.seed, self.current_epoch, batch.pairs))
        loss = batch_loss(
            self.loss_name, self.loaded.encoder, outputs, batch.pairs, self.options.hard_negatives, Ranks(self)
        )
        beta = min(1.0, (self.global_step + 1) / max(1, self.options.beta_warmup))
        for modality, output in outputs.items():
            information = output.information.mean()
            if self.network.kind is not None:
                loss = loss + beta * self.settings.tower(modality).beta * information
            self._log(f"train/{modality}_information", information, batch)
        self._log("train/loss", loss, batch)
        if not Ranks(self).all_finite(loss):
            ids = ", ".join(pair.id for pair in batch.pairs[:20])
            raise M2IBError(
                f"the loss is {loss.item()} at step {self.global_step}, on the pairs {ids}. The last checkpoint is "
                "kept; try a smaller finetune.lr, or trainer.gradient_clip_val=1.0"
            )
        return loss

    def _log(self, name: str, value: Tensor, batch: PairBatch) -> None:
        self.log(name, value, batch_size=len(batch), sync_dist=True)

    @override
    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        self.has_stepped = True
        scale: Any = getattr(self.network.model, "logit_scale", None)
        # SigLIP starts above CLIP's bound
        if scale is not None and scale.requires_grad and self.loss_name == "contrastive":
            with torch.no_grad():
                scale.clamp_(max=math.log(self.options.max_logit_scale))

    @override
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        noise = pair_noise(self.seed, 0, batch.pairs) if self.options.sampled else None
        self._validation.add(batch, self.network(batch.inputs, noise), Ranks(self))

    @override
    def on_validation_epoch_end(self) -> None:
        metrics, maps = self._validation.finish(Ranks(self))
        if self.global_rank == 0:
            draw(maps, self.trainer.loggers, self.global_step)
        # Every rank has seen all pairs, so nothing needs to be reduced.
        self.log_dict({f"val/{name}": value for name, value in metrics.items()}, rank_zero_only=False)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds
        drop_frozen(self, checkpoint)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        seconds = checkpoint.get("seconds")
        self._seconds_before = seconds if isinstance(seconds, float) else 0.0
        check_checkpoint(self, checkpoint)
