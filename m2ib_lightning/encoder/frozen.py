"""A context that freezes the user's model and restores it exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from m2ib_lightning.errors import M2IBError


@contextmanager
def frozen(model: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Put the model into evaluation mode without gradients, on ``device`` in ``dtype``, inside the context.

    The exit restores the training mode of each module, ``requires_grad``, device and dtype, also after an exception or
    Ctrl-C. The weights are bit for bit as before: casting up and back is exact, and casting down is refused.

    Args:
        model: any module on one device and in one floating-point dtype.
        device: device inside the context; None for the model's own.
        dtype: floating-point dtype inside the context; None for the model's own.

    Raises:
        M2IBError: if ``dtype`` is narrower than the model's dtype.
    """
    parameters = list(model.parameters())
    gradient_flags = [parameter.requires_grad for parameter in parameters]
    modes = [(module, module.training) for module in model.modules()]
    model_device, model_dtype = parameters[0].device, parameters[0].dtype
    moved = (device or model_device, dtype or model_dtype) != (model_device, model_dtype)
    if dtype is not None and torch.promote_types(model_dtype, dtype) != dtype:
        raise M2IBError(
            f"the model's weights are {model_dtype}: {dtype} would change them. Use dtype=torch.float64, or on the "
            "command line trainer.precision=64-true."
        )
    try:
        model.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        if moved:
            model.to(device=device, dtype=dtype)
        yield
    finally:
        if moved:
            model.to(device=model_device, dtype=model_dtype)
        for parameter, flag in zip(parameters, gradient_flags, strict=True):
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
