"""The maps of the units of a caption."""

from __future__ import annotations

from dataclasses import dataclass

from m2ib_lightning.results.tower_attribution import Floats


@dataclass(frozen=True)
class UnitMaps:
    """A map of the picture for each unit of its caption (U units).

    Attributes:
        saliency: (U, grid_h, grid_w) saliency of each patch; zeros for a unit that changes nothing.
        shares: (U,) part of the clean cosine that each unit carries; it may be negative.
        unread: indices of the units that the model never reads, because it reads only the start of the caption.
    """

    saliency: Floats
    shares: Floats
    unread: tuple[int, ...] = ()

    def __repr__(self) -> str:
        return f"UnitMaps(saliency of {self.saliency.shape})"
