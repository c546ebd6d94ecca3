"""The check behind ``model.compile=true``, which runs the body of the loop through ``torch.compile``."""

from __future__ import annotations

import torch

from m2ib_lightning.errors import M2IBError


def check_compiler(device: torch.device) -> None:
    """Check that ``torch.compile`` works on a device, with a small function and its gradient.

    A missing compiler is then an error before any pair starts.

    Raises:
        M2IBError: if compilation fails. The message says why.
    """
    x = torch.ones(8, device=device, requires_grad=True)
    try:
        torch.compile(lambda y: (y.sin() + 1).sum())(x).backward()
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise M2IBError(f"torch.compile does not work here ({reason}): leave out model.compile=true") from error
