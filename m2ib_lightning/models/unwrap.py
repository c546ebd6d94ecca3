"""Removes wrappers that run a model without changing its function."""

from __future__ import annotations

from typing import Any

from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


def unwrapped(model: Any) -> Any:
    """Return the model inside ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``.

    Any other object is returned as it is.
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        else:
            return model
