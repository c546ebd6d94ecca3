"""A context that freezes the user's model and restores it exactly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from m2ib_lightning.encoder.usable import check_usable
from m2ib_lightning.errors import M2IBError

_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextmanager
def frozen(model: nn.Module, device: torch.device | None = None, dtype: torch.dtype | None = None) -> Iterator[None]:
    """Put the model into evaluation mode without gradients, on ``device`` in ``dtype``, inside the context.

    The exit restores the training mode of each module, ``requires_grad``, device and dtype, also after an exception or
    Ctrl-C. The weights and buffers are bit for bit as before, because the tensors themselves are put back. One thread
    at a time is inside the context of a model; other threads wait for it.

    Args:
        model: any module on one device. Its parameters may have several floating-point dtypes.
        device: device inside the context; None for the model's own.
        dtype: floating-point dtype inside the context; None for the model's own.

    Raises:
        M2IBError: if ``dtype`` is narrower than the dtype of a parameter, or the model can't be explained as it is
            (``check_usable``).
    """
    check_usable(model)
    with _lock_of(model):
        parameters = list(model.parameters())
        _check_not_narrower(parameters, dtype)
        state = _State(model)
        try:
            model.eval()
            for parameter in parameters:
                parameter.requires_grad_(False)
            if any(_differs(parameter, device, dtype) for parameter in parameters):
                model.to(device=device, dtype=dtype)
            yield
        finally:
            state.restore()


class _State:
    """The tensors, gradients, flags and modes of a model, to be put back later."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._modes = [(module, module.training) for module in modules]
        self._buffers = [(module, dict(module._buffers)) for module in modules if module._buffers]
        self._parameters = [(p, p.data, p.requires_grad, p.grad, _data(p.grad)) for p in model.parameters()]

    def restore(self) -> None:
        for parameter, data, requires_grad, gradient, gradient_data in self._parameters:
            parameter.data = data
            if gradient is not None and gradient_data is not None:
                gradient.data = gradient_data
            parameter.grad = gradient
            parameter.requires_grad_(requires_grad)
        for module, buffers in self._buffers:
            module._buffers.update(buffers)
        for module, mode in self._modes:
            module.training = mode


def _data(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.data


def _lock_of(model: nn.Module) -> threading.RLock:
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


def _check_not_narrower(parameters: list[nn.Parameter], dtype: torch.dtype | None) -> None:
    widths = {parameter.dtype for parameter in parameters}
    wider = [width for width in widths if dtype is not None and torch.promote_types(width, dtype) != dtype]
    if wider:
        raise M2IBError(
            f"the model's weights are {wider[0]}: {dtype} would change them. Use dtype=torch.float64, or on the "
            "command line trainer.precision=64-true."
        )


def _differs(parameter: nn.Parameter, device: torch.device | None, dtype: torch.dtype | None) -> bool:
    return (device or parameter.device, dtype or parameter.dtype) != (parameter.device, parameter.dtype)
