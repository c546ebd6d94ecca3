"""A model lent to us: frozen while we use it, and given back exactly as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from m2ib_lightning.errors import M2IBError


@contextmanager
def frozen(model: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Inside, the model is in evaluation mode, needs no gradient, and is on ``device`` in ``dtype``.

    Afterwards, also after an exception or Ctrl-C, everything is as it was: training mode of each module,
    ``requires_grad``, device and type, bit for bit (casting up and back is exact; casting down is refused).

    Args:
        model: any module on one device and in one floating type.
        device: where to use it; None to leave it.
        dtype: the type to use it in; None to leave it.

    Raises:
        M2IBError: if ``dtype`` is narrower than the model's.
    """
    parameters = list(model.parameters())
    trained = [parameter.requires_grad for parameter in parameters]
    modes = [(module, module.training) for module in model.modules()]
    home, own = parameters[0].device, parameters[0].dtype
    if dtype is not None and torch.promote_types(own, dtype) != dtype:
        raise M2IBError(
            f"the model's weights are {own}: {dtype} would change them. Use dtype=torch.float64, or on the command "
            "line trainer.precision=64-true."
        )
    try:
        model.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        if (device or home, dtype or own) != (home, own):
            model.to(device=device, dtype=dtype)
        yield
    finally:
        if (device or home, dtype or own) != (home, own):
            model.to(device=home, dtype=own)
        for parameter, flag in zip(parameters, trained, strict=True):
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode
