"""What ``finetune.*`` can say: which loss, which parameters, and what is refused."""

from __future__ import annotations

import math

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.encoder.layers import from_the_top
from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.finetuning.lora import ADAPTER
from m2ib_lightning.finetuning.masks import MASKS
from m2ib_lightning.models import LoadedModel

_LOSSES = ("contrastive", "sigmoid", "similarity")


def check_options(options: FinetuneConfig, model: LoadedModel, enabled: bool) -> None:
    """Before anything is made.

    Raises:
        M2IBError: on an option that does not exist, a number out of range, or nothing to train.
    """
    loss_name(options, model)
    trained_names(model, options.train)
    if options.train == "bottleneck" and not enabled:
        raise M2IBError("finetune.train=bottleneck and bottleneck.enabled=false leave nothing to train")
    if loss_name(options, model) == "similarity" and options.train != "bottleneck":
        raise M2IBError(
            "finetune.loss=similarity knows no wrong pairs, so a model that it trains ends up with one embedding for "
            "all: it goes with finetune.train=bottleneck"
        )
    if options.hard_negatives < 0 or (options.hard_negatives and loss_name(options, model) == "similarity"):
        raise M2IBError(
            f"finetune.hard_negatives={options.hard_negatives}: expected a number of at least 0, and 0 with "
            "finetune.loss=similarity, which contrasts nothing"
        )
    if options.mask not in MASKS:
        raise M2IBError(f"finetune.mask must be one of {', '.join(MASKS)}, got {options.mask!r}")
    if "{}" not in options.prompt:
        raise M2IBError(f"finetune.prompt must have {{}} where the class's name goes, got {options.prompt!r}")
    for name in ("lr", "bottleneck_lr", "weight_decay", "warmup", "beta_warmup", "maps", "checkpoint_every"):
        if not 0 <= getattr(options, name) < math.inf:
            raise M2IBError(f"finetune.{name} must be a number and not negative, got {getattr(options, name)}")
    for name in ("hidden", "rank"):
        if not 1 <= getattr(options, name) <= 65536:
            raise M2IBError(f"finetune.{name} must be from 1 to 65536, got {getattr(options, name)}")
    if not 1 < options.max_logit_scale < math.inf:
        raise M2IBError(f"finetune.max_logit_scale must be above 1, got {options.max_logit_scale}")


def loss_name(options: FinetuneConfig, model: LoadedModel) -> str:
    """The loss that is asked for; else the model's own, or M2IB's similarity where the model is frozen.

    Raises:
        M2IBError: if it does not exist.
    """
    if options.loss is not None and options.loss not in _LOSSES:
        near = nearest(options.loss, _LOSSES)
        raise M2IBError(f"finetune.loss must be one of {', '.join(_LOSSES)}, got {options.loss!r}.{near}")
    own = "sigmoid" if hasattr(model.encoder.model, "logit_bias") else "contrastive"
    return options.loss or ("similarity" if options.train == "bottleneck" else own)


def trained_names(model: LoadedModel, train: str) -> list[str]:
    """The model's parameters that ``finetune.train`` names."""
    layers = from_the_top(model.encoder)
    single = [name for name, p in model.encoder.model.named_parameters() if p.numel() == 1]  # temperature, bias
    if train == "bottleneck":
        return []
    if train == "lora":
        return single + [name for name, _ in model.encoder.model.named_parameters() if ADAPTER in name]
    if train == "all":
        return single + [name for layer in layers for name in layer]
    if train == "heads":
        return single + layers[0]
    kind, _, count = train.partition(":")
    if kind != "last" or not count.isdigit() or not 1 <= int(count) <= len(layers) - 2:
        raise M2IBError(
            f"finetune.train must be all, heads, lora, bottleneck, or last:N with N from 1 to {len(layers) - 2} "
            f"blocks, got {train!r}"
        )
    return single + [name for layer in layers[: int(count) + 1] for name in layer]
