"""The check that a model's weights are ordinary tensors in one place, which can be moved, cast and differentiated."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from m2ib_lightning.errors import M2IBError

_SHARDED = ("FullyShardedDataParallel", "FSDP", "DTensor", "ShardedTensor")
_QUANTISED = ("torch.ao.nn.quantized", "torch.nn.quantized", "bitsandbytes", "torchao", "auto_gptq", "awq", "quanto")


def check_usable(model: nn.Module) -> None:
    """Check that a model can be explained as it is.

    Raises:
        M2IBError: if its weights are missing (``meta``), offloaded, spread over devices, sharded, quantised, or made
            in inference mode. The message says what to do.
    """
    reason = _reason(model)
    if reason is not None:
        raise M2IBError(f"the model {type(model).__name__} can't be explained as it is: {reason}")


def _reason(model: nn.Module) -> str | None:
    """Return why the model can't be explained, or None."""
    for name, module in model.named_modules():
        origin = type(module).__module__
        if type(module).__name__ in _SHARDED:
            return f"{name or 'it'} is sharded by FSDP. Load the saved model on one device"
        if origin.startswith(_QUANTISED):
            return f"{name} is quantised ({type(module).__name__}). Load the model without quantisation"
    places = set()
    for name, parameter in model.named_parameters():
        if reason := _reason_of(name, parameter):
            return reason
        places.add(parameter.device)
    if not places:
        return "it has no weights"
    if len(places) > 1:
        where = ", ".join(sorted(map(str, places)))
        return f"its weights are on several devices ({where}). Load it without device_map"
    return None


def _reason_of(name: str, parameter: Tensor) -> str | None:
    """Return why a parameter can't be used, or None."""
    if parameter.is_meta or is_lazy(parameter):
        return f"{name} has no values (meta device, or offloaded). Load it without device_map and offloading"
    if parameter.is_inference():
        return (
            f"{name} was made under torch.inference_mode(), and no gradient can pass it. Load the model outside of it; "
            "torch.no_grad() does no harm"
        )
    kind = type(parameter.data).__name__
    if kind in _SHARDED:
        return f"{name} is sharded ({kind}). Load the saved model on one device"
    if not parameter.dtype.is_floating_point or kind != "Tensor":
        return f"{name} is quantised ({kind}, {parameter.dtype}). Load the model without quantisation"
    return None
