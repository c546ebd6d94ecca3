"""AdamW for the model and its bottlenecks, and the schedule of the learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.finetuning.network import BottleneckedModel


def optimizer_and_schedule(network: BottleneckedModel, options: FinetuneConfig, steps: int) -> dict[str, Any]:
    """Build the optimiser and the schedule, as ``configure_optimizers`` returns them.

    Weight decay applies to the model's matrices only, not to its vectors or the bottlenecks. The bottlenecks have a
    separate learning rate.

    Args:
        network: the model and its bottlenecks; only parameters that require gradients are trained.
        options: ``finetune.*``.
        steps: optimiser steps of the whole training.
    """
    bottlenecks = [p for p in network.bottlenecks.parameters() if p.requires_grad]
    bottleneck_ids = {id(p) for p in bottlenecks}
    model = [p for p in network.parameters() if p.requires_grad and id(p) not in bottleneck_ids]
    groups = [
        {"params": [p for p in model if p.ndim >= 2], "lr": options.lr, "weight_decay": options.weight_decay},
        {"params": [p for p in model if p.ndim < 2], "lr": options.lr, "weight_decay": 0.0},
        {"params": bottlenecks, "lr": options.bottleneck_lr, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], betas=(0.9, 0.98))
    total = max(1, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, options.warmup, total))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _rate(step: int, warmup: int, total: int) -> float:
    """Return the factor of the learning rate: a linear warm-up, then a cosine decay to 0."""
    progress = min(1.0, max(0, step - warmup) / max(1, total - warmup))
    return min(1.0, (step + 1) / max(1, warmup)) * 0.5 * (1 + math.cos(math.pi * progress))
