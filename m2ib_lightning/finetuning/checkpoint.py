"""Checkpoints of a fine-tuning: only the weights that are trained, and the bottlenecks' priors."""

from __future__ import annotations

from typing import Any

from torch import nn

from m2ib_lightning.errors import M2IBError


def drop_frozen(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Remove every frozen weight from the checkpoint's ``state_dict``.

    Args:
        module: the module that the checkpoint is of.
        checkpoint: the checkpoint, changed in place.
    """
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    names |= {name for name, _ in module.named_buffers() if ".bottlenecks." in f".{name}"}
    checkpoint["state_dict"] = {name: value for name, value in checkpoint["state_dict"].items() if name in names}


def check_checkpoint(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Check that a checkpoint has every trained weight of a module, in its shape.

    Raises:
        M2IBError: if a weight is missing or has another shape; the message names the first one.
    """
    if "state_dict" not in checkpoint:  # the strategy of sharded weights has loaded and removed it
        return
    expected = {name: parameter.shape for name, parameter in module.named_parameters() if parameter.requires_grad}
    shapes = {name: value.shape for name, value in checkpoint["state_dict"].items()}
    wrong = [name for name, shape in expected.items() if shapes.get(name) != shape]
    if wrong:
        raise M2IBError(
            f"the checkpoint is of another model or another finetune.train: {wrong[0]} is {shapes.get(wrong[0])} in "
            f"it and {tuple(expected[wrong[0]])} here"
        )
