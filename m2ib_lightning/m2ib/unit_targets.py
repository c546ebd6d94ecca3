r"""The targets of a batch's units: what the picture is compared with, in place of the caption's embedding.

With e the normalised embeddings of the text tower, and c without u the caption without the unit u:

.. math::
    \text{difference: } e(c) - e(c \setminus u) \qquad \text{alone: } e(u) \qquad \text{contrast: } e(u) - e(a)

Each is normalised. A unit's share is the part of the clean cosine that its difference carries,
:math:`\cos(e_I, e(c)) - \cos(e_I, e(c \setminus u))` for the first, in the same way for the others.

Legend: B pairs, N units, E embedding size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.encoder.towers import Inputs, Tower
from m2ib_lightning.pairs.pair import PairBatch

SAME_EMBEDDING = 1e-5
"""Largest norm of a difference that rounding explains; normalised embeddings in float32 differ by about 1e-7."""


@dataclass(frozen=True)
class UnitTargets:
    """The targets of the units of a batch.

    Attributes:
        rows: (N,) index of each unit's pair in the batch.
        difference: (N, E) the difference, before it is normalised.
    """

    rows: Tensor
    difference: Tensor

    @property
    def direction(self) -> Tensor:
        """(N, E) the targets: the normalised differences."""
        return F.normalize(self.difference, dim=-1)

    @property
    def changed(self) -> Tensor:
        """(N,) bool, whether the unit changes the embedding at all."""
        return ~(self.difference.norm(dim=-1) <= SAME_EMBEDDING)  # NaN counts as a change: it must be seen

    def shares(self, images: Tensor) -> Tensor:
        """Return the share (N,) of the clean cosine that each unit carries.

        Args:
            images: (B, E) embeddings of the pictures.
        """
        unit_images = F.normalize(images.to(self.difference.dtype), dim=-1)[self.rows]
        return (unit_images * self.difference).sum(-1).where(self.changed, 0)


@torch.no_grad()
def unit_targets(batch: PairBatch, text_tower: Tower) -> UnitTargets | None:
    """Return the targets of a batch's units; None if the batch has none to optimise.

    The text tower runs in the dtype of its weights, also under autocast: a difference of two near embeddings would
    lose most of its digits in half precision.
    """
    units = batch.units
    if units is None or not len(units):
        return None
    device = next(iter(units.inputs.values())).device
    rows = units.rows(device)
    with torch.autocast(device.type, enabled=False):
        texts = _embedded(text_tower, units.inputs)
        if units.target == "difference":
            difference = _embedded(text_tower, batch.inputs["text"])[rows] - texts
        elif units.against is not None:
            difference = texts - _embedded(text_tower, units.against)
        else:
            difference = texts
    return UnitTargets(rows, difference)


def _embedded(tower: Tower, inputs: Inputs) -> Tensor:
    """Return the normalised embeddings of tokenised texts."""
    hidden = tower.prefix(inputs, -1)
    return F.normalize(tower.suffix(hidden.z, -1, hidden.layout), dim=-1)
