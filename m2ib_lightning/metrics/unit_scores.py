"""How well the maps of a caption's units find the parts of the picture that the units name.

Legend: U units, O objects, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.errors import M2IBError


def object_means(maps: Tensor, objects: Tensor) -> Tensor:
    """Return the mean of each map on each object, (U, O); NaN for an object without pixels.

    Args:
        maps: (U, H, W) maps, raw.
        objects: (O, H, W) bool masks.

    Raises:
        M2IBError: if the sizes differ.
    """
    if maps.shape[-2:] != objects.shape[-2:] or maps.ndim != 3 or objects.ndim != 3:
        raise M2IBError(
            f"maps (U, H, W) and objects (O, H, W) must have one size, got {tuple(maps.shape)} and "
            f"{tuple(objects.shape)}"
        )
    inside = objects.flatten(1).double()
    return maps.flatten(1).double() @ inside.T / inside.sum(-1)


def right_object(means: Tensor, owners: Tensor) -> Tensor:
    """Return, for each unit, whether its map is higher on its own object than on any other: 1, 0, or a share of a tie.

    Args:
        means: (U, O) from ``object_means``.
        owners: (U,) index of each unit's object.

    >>> right_object(torch.tensor([[3.0, 1.0], [2.0, 2.0]]), torch.tensor([0, 0])).tolist()
    [1.0, 0.5]
    """
    highest = means == means.amax(-1, keepdim=True)
    return highest[torch.arange(len(means)), owners].double() / highest.sum(-1)


def confusion(means: Tensor, owners: Tensor) -> Tensor:
    """Return the share of each unit's map that each unit's object gets, (U, U); the diagonal should be 1.

    Args:
        means: (U, O) from ``object_means``; negative means count as 0.
        owners: (U,) index of each unit's object.

    Returns:
        Row u: the means of unit u's map on the units' objects, divided by their sum; equal shares if all are 0.
    """
    named = means[:, owners].clamp(min=0)
    total = named.sum(-1, keepdim=True)
    return torch.where(total > 0, named / total, torch.full_like(named, 1 / max(len(owners), 1)))


def right_unit(means: Tensor, owners: Tensor) -> Tensor:
    """Return, for the object of each unit, whether this unit carries it more than any other: 1, 0, or a share of a tie.

    A unit carries an object by its map's mean there, relative to the mean over the named objects, so that units with
    large maps do not win everywhere.

    Args:
        means: (U, O) from ``object_means``; negative means count as 0.
        owners: (U,) index of each unit's object.

    >>> right_unit(torch.tensor([[4.0, 2.0], [1.0, 1.0]]), torch.tensor([0, 1])).tolist()
    [1.0, 1.0]
    """
    carried = confusion(means, owners)
    highest = carried == carried.amax(0, keepdim=True)
    return highest.diagonal().double() / highest.sum(0)
