"""Checks of the options ``finetune.*``, and the loss and the trained parameters that they select."""

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
    """Check the options ``finetune.*`` before any work starts.

    Raises:
        M2IBError: if an option does not exist, a number is out of range, or nothing is left to train.
    """
    loss_name(options, model)
    trained_names(model, options.train)
    if options.train == "bottleneck" and not enabled:
        raise M2IBError("finetune.train=bottleneck and bottleneck.enabled=false leave nothing to train")
    if loss_name(options, model) == "similarity" and options.train != "bottleneck":
        raise M2IBError(
            "finetune.loss=similarity knows no wrong pairs, so a model trained with it gives all pairs one embedding: "
            "use it with finetune.train=bottleneck"
        )
    if options.hard_negatives < 0 or (options.hard_negatives and loss_name(options, model) == "similarity"):
        raise M2IBError(
            f"finetune.hard_negatives must be at least 0, and 0 with finetune.loss=similarity, which has no negatives; "
            f"got {options.hard_negatives}"
        )
    if options.mask not in MASKS:
        raise M2IBError(f"finetune.mask must be one of {', '.join(MASKS)}, got {options.mask!r}")
    if "{}" not in options.prompt:
        raise M2IBError(f"finetune.prompt must have {{}} where the class's name goes, got {options.prompt!r}")
    for name in ("lr", "bottleneck_lr", "weight_decay", "warmup", "beta_warmup", "maps", "checkpoint_every"):
        if not 0 <= getattr(options, name) < math.inf:
            raise M2IBError(f"finetune.{name} must be a finite number of at least 0, got {getattr(options, name)}")
    for name in ("hidden", "rank"):
        if not 1 <= getattr(options, name) <= 65536:
            raise M2IBError(f"finetune.{name} must be from 1 to 65536, got {getattr(options, name)}")
    if not 1 < options.max_logit_scale < math.inf:
        raise M2IBError(f"finetune.max_logit_scale must be above 1, got {options.max_logit_scale}")


def loss_name(options: FinetuneConfig, model: LoadedModel) -> str:
    """Return the name of the loss: ``finetune.loss``, or the default if that is null.

    The default is the model's own loss, or ``similarity`` if the model is frozen.

    Raises:
        M2IBError: if the loss does not exist.
    """
    if options.loss is not None and options.loss not in _LOSSES:
        near = nearest(options.loss, _LOSSES)
        raise M2IBError(f"finetune.loss must be one of {', '.join(_LOSSES)}, got {options.loss!r}.{near}")
    default = "contrastive" if getattr(model.encoder.model, "logit_bias", None) is None else "sigmoid"
    return options.loss or ("similarity" if options.train == "bottleneck" else default)


def trained_names(model: LoadedModel, train: str) -> list[str]:
    """Return the names of the model's parameters that ``finetune.train`` selects.

    Raises:
        M2IBError: if ``finetune.train`` is not one of its values.
    """
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
