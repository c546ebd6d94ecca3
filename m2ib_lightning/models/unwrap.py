"""Removes wrappers that run a model without changing its function."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch.nn import DataParallel
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel


class Container(NamedTuple):
    """A model for another task that holds an image-text model.

    Attributes:
        attribute: name of the attribute that holds it.
        holds: name of its class.
    """

    attribute: str
    holds: str


CONTAINERS = {
    "CLIPSegForImageSegmentation": Container("clip", "CLIPSegModel"),
    "OwlViTForObjectDetection": Container("owlvit", "OwlViTModel"),
    "Owlv2ForObjectDetection": Container("owlv2", "Owlv2Model"),
}
"""The containers, by class name."""


def unwrapped(model: Any) -> Any:
    """Return the image-text model inside wrappers and containers.

    The wrappers are ``torch.compile``, ``DataParallel``, ``DistributedDataParallel`` and ``AveragedModel``. Any other
    object is returned as it is.
    """
    while True:
        if isinstance(model, DataParallel | DistributedDataParallel | AveragedModel):
            model = model.module
        elif hasattr(model, "_orig_mod"):  # torch.compile
            model = model._orig_mod
        elif type(model).__name__ in CONTAINERS:
            model = getattr(model, CONTAINERS[type(model).__name__].attribute)
        else:
            return model
