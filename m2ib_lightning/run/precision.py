"""Half precision without a gradient scaler that couples the pairs of a batch."""

from __future__ import annotations

import time

import torch
from lightning.pytorch.plugins import MixedPrecision, Precision

from m2ib_lightning.errors import M2IBError


def half_precision(device: str) -> MixedPrecision:
    """Return the ``16-mixed`` plugin for a ``Trainer`` that fits ``M2IBModule``, on ``"cuda"`` or ``"cpu"``.

    Lightning's own ``16-mixed`` skips the step of every pair when the gradient of one overflows. On a CPU it becomes
    bfloat16. This plugin disables the scaler. The loop multiplies each pair's loss by a constant and divides its
    gradient by it. An overflow therefore fails only its own pair.

    >>> half_precision("cpu").scaler.is_enabled()
    False
    """
    return MixedPrecision("16-mixed", device, scaler=torch.amp.GradScaler(device, enabled=False))


def speed_on_cpu(dtype: torch.dtype) -> float:
    """Return the speed of matrix products in a dtype on this CPU, as a multiple of the speed in float32.

    The ratio is below 1 on a CPU without fast instructions for the dtype.
    """
    a, b = torch.randn(512, 1024), torch.randn(1024, 1024)
    return _best_time(a, b) / _best_time(a.to(dtype), b.to(dtype))


def _best_time(a: torch.Tensor, b: torch.Tensor) -> float:
    times = []
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        times.append(time.perf_counter() - start)
    return min(times)


def check_precision(plugin: Precision, alpha: torch.dtype) -> None:
    """Refuse alphas in half precision, and a scaler that would couple the pairs.

    Args:
        plugin: precision plugin of the Trainer.
        alpha: dtype of the alphas.

    Raises:
        M2IBError: if the alphas are in half precision, or the plugin has an enabled scaler.
    """
    if alpha not in (torch.float32, torch.float64):
        raise M2IBError(
            f"Trainer(precision={plugin.precision!r}) makes the alphas {alpha}: alpha, lambda and the information must "
            "stay float32; use bf16-mixed"
        )
    scaler = getattr(plugin, "scaler", None)
    if scaler is not None and scaler.is_enabled():
        raise M2IBError(
            "Trainer(precision='16-mixed') has a gradient scaler that skips the step of every pair when one overflows. "
            "Give it plugins=[m2ib_lightning.half_precision('cuda')] in place of precision=."
        )
