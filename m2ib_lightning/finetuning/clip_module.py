"""Fine-tuning an image-text model with a bottleneck in each tower, as a LightningModule.

Legend: B pairs of this rank, N of all ranks, T tokens, D width, E embedding size.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from lightning import LightningModule
from torch import Tensor
from typing_extensions import override

from m2ib_lightning.config import MODALITIES, FinetuneConfig, Modality
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.finetuning.lora import add_adapters
from m2ib_lightning.finetuning.losses import contrastive_loss, sigmoid_loss, similarity_loss
from m2ib_lightning.finetuning.maps import SHOWN, OptimisedMaps, draw, judged, readout_maps
from m2ib_lightning.finetuning.network import BottleneckedModel, Noise, TowerOutput
from m2ib_lightning.finetuning.options import check_options, loss_name, trained_names
from m2ib_lightning.finetuning.positives import caption_signatures, picture_signatures, positives
from m2ib_lightning.finetuning.recall import recalls
from m2ib_lightning.finetuning.sharded import shard
from m2ib_lightning.finetuning.training_noise import draw_noise
from m2ib_lightning.finetuning.zero_shot import zero_shot_accuracy
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.results.attribution import Attribution


class IBClipModule(LightningModule):
    r"""Trains :math:`L + \beta_{image} I_{image} + \beta_{text} I_{text}` with the bottlenecks' noise on.

    L is the model's own loss over the global batch, or M2IB's similarity; I the mean information of the pictures, and
    of the captions (other ones too), in nats per token and channel. The noise of a pair is keyed by the seed, the
    epoch and its key, so that ranks and batches do not change it. At validation there is none, unless
    ``finetune.sampled``.

    Args:
        model: from ``load_model``; it is trained in place.
        options: ``finetune.*``.
        settings: of the bottleneck; None for the model folder's.
        enabled: whether there is a bottleneck at all.
        seed: keys the noise.
        statistics: priors for ``prior="data"``; None for the folder's.

    Attributes:
        network: the model and its bottlenecks.

    Raises:
        M2IBError: on an option that does not exist, or nothing to train.
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
        self.home = model.dtype  # of the weights, as they came and as they are saved
        model.encoder.model.to(torch.promote_types(model.dtype, torch.float32))  # half weights forget small steps
        if options.train == "lora":
            add_adapters(model.encoder, options.rank, seed)
        self.seed = seed
        self.settings = resolve(settings or model.preset, model.encoder)
        self.network = BottleneckedModel(
            model.encoder,
            self.settings,
            options.mask if enabled else None,
            statistics or model.statistics,
            options.hidden,
            seed,
            clean=loss_name(options, model) == "similarity",
        )
        self._optimised = OptimisedMaps(model, statistics or model.statistics, seed)
        self.loss_name = loss_name(options, model)
        self._freeze()
        self.strict_loading = False  # frozen weights are in no checkpoint
        self._begun: float | None = None
        self._seconds = 0.0
        self._seen: list[tuple[list[Pair], dict[Modality, tuple[Tensor, Tensor]]]] = []
        self._maps: list[Attribution] = []
        self._pictures: list[tuple[list[Pair], Tensor]] = []
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
        for name, parameter in self.network.model.named_parameters():
            # What the loss does not read gets no gradient, which DDP would wait for.
            unused = self.loss_name != "sigmoid" and name == "logit_bias"
            parameter.requires_grad_(name in trained and not unused)
        self.network.model.train(bool(trained))

    @override
    def configure_model(self) -> None:
        if self.device_mesh is not None:
            shard(self.network, self.device_mesh["data_parallel"])

    @override
    def configure_optimizers(self) -> Any:
        options, masks = self.options, {id(p) for p in self.network.bottlenecks.parameters()}
        own = [p for p in self.parameters() if p.requires_grad and id(p) not in masks]
        head = [p for p in self.network.bottlenecks.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in own if p.ndim >= 2], "lr": options.lr, "weight_decay": options.weight_decay},
            {"params": [p for p in own if p.ndim < 2], "lr": options.lr, "weight_decay": 0.0},
            {"params": head, "lr": options.bottleneck_lr, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98))
        total = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.warmup, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    @property
    def seconds(self) -> float:
        """Of training, those before the checkpoint that it goes on from among them."""
        return self._seconds + (0.0 if self._begun is None else time.monotonic() - self._begun)

    @override
    def on_train_start(self) -> None:
        self._begun = time.monotonic()

    @override
    def training_step(self, batch: PairBatch, batch_idx: int) -> Tensor:
        outputs = self.network(batch.inputs, self._noise_of(batch, self.current_epoch))
        loss = self._fit_term(outputs, batch)
        beta = min(1.0, (self.global_step + 1) / max(1, self.options.beta_warmup))
        for modality, output in outputs.items():
            information = output.information.mean()
            if self.network.kind is not None:
                loss = loss + beta * self.settings.tower(modality).beta * information
            self._say(f"train/{modality}_information", information, batch)
        self._say("train/loss", loss, batch)
        if not self._all_finite(loss):
            ids = ", ".join(pair.id for pair in batch.pairs[:20])
            raise M2IBError(
                f"the loss is {loss.item()} at step {self.global_step}, on the pairs {ids}. The last checkpoint is "
                "kept; try a smaller finetune.lr, or trainer.gradient_clip_val=1.0"
            )
        return loss

    def _all_finite(self, loss: Tensor) -> bool:
        """Of all ranks: one that stops alone would leave the others waiting."""
        bad = (~loss.detach().isfinite()).float()
        total: Any = bad if self.trainer.world_size == 1 else self.all_gather(bad)
        return bool(total.sum() == 0)

    def _agreed(self, wanted: bool) -> bool:
        """Whether all ranks want it, where each has a share of what it takes; one alone would wait for the others."""
        if self.device_mesh is None:
            return wanted
        votes: Any = self.all_gather(torch.tensor(float(wanted), device=self.device))
        return bool(votes.all())

    def _say(self, name: str, value: Tensor | float, batch: PairBatch) -> None:
        self.log(name, value, batch_size=len(batch), sync_dist=True)

    def _fit_term(self, outputs: dict[Modality, TowerOutput], batch: PairBatch) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            return self._loss(outputs, batch)

    def _loss(self, outputs: dict[Modality, TowerOutput], batch: PairBatch) -> Tensor:
        image, text = outputs["image"], outputs["text"]
        if self.loss_name == "similarity":
            ways = (
                similarity_loss(image.embedding, text.clean.detach()),
                similarity_loss(text.embedding, image.clean.detach()),
            )
            return ways[0] + ways[1]
        images, texts = (self._gathered(_unit(output.embedding)) for output in (image, text))
        pictures, captions = (
            self._gathered(prints.to(self.device))
            for prints in (
                picture_signatures(batch.pairs),
                caption_signatures(batch.pairs, self.options.hard_negatives),
            )
        )
        own = self._own(len(image.embedding))
        positive = positives(pictures[own], captions)
        model: Any = self.network.model
        scale = model.logit_scale.exp()
        if self.loss_name == "sigmoid":
            bias = getattr(model, "logit_bias", scale.new_zeros(()))
            return sigmoid_loss(images, texts, scale, bias, positive, own)
        mine = self._own(len(text.embedding))
        columns = positives(pictures, captions[mine]).T
        answered = self._gathered(columns.any(1).sum()[None]).float().mean()
        return contrastive_loss(images, texts, scale, (positive, columns), (own, mine), answered)

    def _own(self, rows: int) -> slice:
        """This rank's among those of all ranks."""
        return slice(self.global_rank * rows, (self.global_rank + 1) * rows)

    def _gathered(self, values: Tensor) -> Tensor:
        """(B, ...) of this rank to (N, ...) of all, in the order of ranks, with gradients."""
        if self.trainer.world_size == 1:
            return values
        gathered: Any = self.all_gather(values, sync_grads=values.requires_grad)
        together: Tensor = gathered.flatten(0, 1)
        return together

    def _noise_of(self, batch: PairBatch, epoch: int) -> Noise:
        return lambda modality, z: self._noise(modality, z, batch.pairs, epoch)

    def _noise(self, modality: Modality, z: Tensor, pairs: Sequence[Pair], epoch: int) -> Tensor:
        """(B, T, D): of each pair its own, and of each other caption."""
        keys = [pair.key for pair in pairs]
        if modality == "text":
            others = len(z) // len(pairs) - 1
            keys += [f"{pair.key}#{number}" for pair in pairs for number in range(others)]
        drawn = draw_noise(self.seed, modality, epoch, keys, (z.shape[1], z.shape[2]))
        if z.device.type == "cuda":
            drawn = drawn.pin_memory()
        return drawn.to(z, non_blocking=True)

    @override
    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        super().optimizer_step(*arguments, **options)
        model: Any = self.network.model
        if model.logit_scale.requires_grad and self.loss_name == "contrastive":  # SigLIP's begins above CLIP's bound
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(self.options.max_logit_scale))

    @override
    def validation_step(self, batch: PairBatch, batch_idx: int) -> None:
        outputs = self.network(batch.inputs, self._noise_of(batch, 0) if self.options.sampled else None)
        self._maps += self._explained(batch, outputs)
        if self._agreed(any(pair.truth is not None and pair.truth.label is not None for pair in batch.pairs)):
            known = self.network.kind != "channel" or self.network.wants_clean
            image = outputs["image"].clean if known else self.network.untouched("image", batch.inputs["image"])
            self._pictures.append((batch.pairs, image))
        rows = {m: (_unit(output.embedding), output.information) for m, output in outputs.items()}
        self._seen.append((batch.pairs, rows))

    def _explained(self, batch: PairBatch, outputs: dict[Modality, TowerOutput]) -> list[Attribution]:
        """The readout's maps; else those of an optimisation of each pair, where this process has the plain weights."""
        known = len(self._maps)
        places = batch.first(max(0, self.options.maps - known))
        if self.network.kind == "readout":
            maps = readout_maps(self.network, batch, outputs) if places else []
            return [maps[place] for place in places]
        if self.device_mesh is not None or self.options.train == "lora":
            return []
        truths = [pair.truth for pair in batch.pairs]
        told = [truth is not None and (truth.mask is not None or truth.content is not None) for truth in truths]
        return self._optimised(batch, [place for n, place in enumerate(places, known) if n < SHOWN or told[place]])

    @override
    def on_validation_epoch_end(self) -> None:
        seen, self._seen = self._seen, []
        maps, self._maps = self._maps, []
        pairs = [pair for some, _ in seen for pair in some]
        image, text = (torch.cat([rows[m][0] for _, rows in seen]) for m in MODALITIES)
        pictures, captions = picture_signatures(pairs).to(self.device), caption_signatures(pairs).to(self.device)
        found = recalls(
            image,
            text,
            lambda rows: positives(pictures[rows], captions),
            lambda rows: positives(pictures, captions[rows]).T,
        )
        for m in MODALITIES:
            found[f"{m}_information"] = float(torch.cat([rows[m][1] for _, rows in seen]).mean())
        found |= judged(maps) | self._zero_shot()
        if self.global_rank == 0:
            draw(maps, self.trainer.loggers, self.global_step)
        # Every rank has seen all pairs: nothing is to be reduced.
        self.log_dict({f"val/{name}": value for name, value in found.items()}, rank_zero_only=False)

    def _zero_shot(self) -> dict[str, float]:
        """Of the pictures whose class is known."""
        seen, self._pictures = self._pictures, []
        labels = [None if pair.truth is None else pair.truth.label for pairs, _ in seen for pair in pairs]
        if not self._agreed(len({label for label in labels if label is not None}) > 1):
            return {}
        images = torch.cat([embeddings for _, embeddings in seen])
        accuracy = zero_shot_accuracy(images, labels, self.options.prompt, self._embed)
        return {} if accuracy is None else {"zero_shot_accuracy": accuracy}

    def _embed(self, captions: list[str]) -> Tensor:
        preparer = self.loaded.preparer
        try:
            inputs = preparer.pad([preparer.read_caption(caption)[0] for caption in captions])
        except PairError as error:
            raise M2IBError(f"zero-shot accuracy: a prompt among {captions[:5]} can't be read: {error}") from None
        return self.network.untouched("text", {name: value.to(self.device) for name, value in inputs.items()})

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["seconds"] = self.seconds
        kept = {name for name, parameter in self.named_parameters() if parameter.requires_grad}
        kept |= {name for name, _ in self.named_buffers() if ".bottlenecks." in f".{name}"}
        checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in kept}

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._seconds = checkpoint.get("seconds", 0.0)
        if "state_dict" not in checkpoint:  # weights of shares: the strategy has read them, and taken them out
            return
        own = {name: parameter.shape for name, parameter in self.named_parameters() if parameter.requires_grad}
        there = {name: value.shape for name, value in checkpoint["state_dict"].items()}
        wrong = [name for name, shape in own.items() if there.get(name) != shape]
        if wrong:
            raise M2IBError(
                f"the checkpoint is of another model or another finetune.train: {wrong[0]} is {there.get(wrong[0])} in "
                f"it and {tuple(own[wrong[0]])} here"
            )


def _unit(embedding: Tensor) -> Tensor:
    """Normalised, in float32 at least."""
    return F.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=-1)


def _rate(step: int, warmup: int, total: int) -> float:
    """Linear warm-up, then a cosine down to 0."""
    progress = min(1.0, max(0, step - warmup) / max(1, total - warmup))
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * progress))
