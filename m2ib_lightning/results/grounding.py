"""Which unit of a caption goes with which patch of its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.pairs.units.unit import Unit
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawable import Drawable
from m2ib_lightning.results.figures.figure import Figure
from m2ib_lightning.results.figures.overlays import Style
from m2ib_lightning.results.grounding_drawing import grounding_figure, unit_heatmap
from m2ib_lightning.results.grounding_html import grounding_page
from m2ib_lightning.results.map_placement import place_map
from m2ib_lightning.results.notebook import grounding_display
from m2ib_lightning.results.tower_attribution import Floats
from m2ib_lightning.results.unit_maps import UnitMaps

_LISTED = 8
"""Largest number of units that ``repr`` names."""


@dataclass(frozen=True)
class Grounding(Drawable):
    """A map of the picture for each unit of its caption, beside the map of the whole caption (U units).

    Attributes:
        whole: the attribution of the whole caption; it holds the units' maps.
    """

    whole: Attribution

    @property
    def units(self) -> list[Unit]:
        """The units: text, start and end in characters of the caption."""
        return self.whole.pair.units

    @property
    def maps(self) -> Floats:
        """Saliency of each patch for each unit, (U, grid_h, grid_w); in nats for M2IB."""
        return self._maps().saliency

    @property
    def shares(self) -> Floats:
        """Part of the clean cosine that each unit carries, (U,).

        It is the cosine of picture and caption, less that of the picture and the caption without the unit. The shares
        need not add up to the cosine, and may be negative.
        """
        return self._maps().shares

    @property
    def matrix(self) -> Floats:
        """The maps as a matrix, (U, patches), with the patches in row-major order."""
        return self.maps.reshape(len(self.maps), -1)

    def heatmap(self, unit: int) -> Floats:
        """Return the heatmap (H, W) of a unit in [0, 1], at the picture's own size, as ``Attribution.image_heatmap``.

        Raises:
            M2IBError: if there is no such unit.
        """
        return unit_heatmap(self.whole, unit, *self.whole.pair.image_size)

    def in_region(self, region: Sequence[float] | NDArray[np.bool_]) -> Floats:
        """Return how much of each unit's saliency lies in a region, (U,): which words does this region carry?

        Args:
            region: a box (left, top, right, bottom) in pixels of the picture, or a mask (H, W) of it.

        Returns:
            The mean saliency per pixel in the region, divided by that of the whole map: 1 if the region is like the
            rest, 2 if it has twice its share; 0 for a unit whose map is zeros.

        Raises:
            M2IBError: if the region is not a box or a mask, or covers nothing that the model saw.
        """
        mask = _mask(region, *self.whole.pair.image_size)
        ratios = []
        for unit in range(len(self.units)):
            saliency = place_map(self.maps[unit], self.whole.pair, *self.whole.pair.image_size)
            full = saliency.on_canvas(*self.whole.pair.image_size, fill=np.nan)
            seen = ~np.isnan(full)
            if not (mask & seen).any():
                raise M2IBError(
                    f"the region {_named(region)} covers no pixel that the model saw ({self.whole.pair.crop})"
                )
            mean = float(full[seen].mean())
            ratios.append(float(full[mask & seen].mean()) / mean if mean > 0 else 0.0)
        return np.array(ratios, np.float32)

    @override
    def figure(self, style: Style = "alpha", size: int | None = None, scale: float = 1.0) -> Figure:
        """Return the drawing as a figure: the picture, and its map for each unit.

        Args:
            style: as for ``Attribution.figure``; in ``alpha`` and ``patches`` the picture fades where a map is low.
            size: longer side of each picture in pixels, before ``scale``; None for 232, more for panoramas.
            scale: factor of everything, texts included.

        Raises:
            M2IBError: if the pair failed, has no units, its picture was not kept, or an argument is out of range.
        """
        return grounding_figure(self.whole, style, size, scale)

    @override
    def page(self) -> str:
        """Return the page, on which the unit that is pointed at shows its map."""
        return grounding_page(self.whole)

    def _repr_html_(self) -> str:
        return grounding_display(self.whole)

    def __repr__(self) -> str:
        if self.whole.error is not None:
            return f"Grounding({quoted(self.whole.pair.id)}, error={quoted(self.whole.error)})"
        if self.whole.units is None:
            return f"Grounding({self.whole!r})"
        shares = self.shares[:_LISTED].tolist()
        units = [f"{quoted(unit.text)}: {share:+.3f}" for unit, share in zip(self.units, shares, strict=False)]
        units += [f"{len(self.units) - _LISTED} more"] if len(self.units) > _LISTED else []
        about = f"{quoted(self.whole.pair.caption)}, similarity {self.whole.similarity:.3f}"
        return f"Grounding({about}; {', '.join(units) or 'no units'})"

    def to_row(self) -> dict[str, Any]:
        """Return the table row of this result, as ``Attribution.to_row`` does."""
        return self.whole.to_row()

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Grounding:
        """Restore a result from its table row, as ``load_attributions`` returns it.

        Raises:
            M2IBError: if the row is not one of ``task=ground``, or as ``Attribution.from_row`` says.
        """
        whole = Attribution.from_row(row)
        if whole.units is None and whole.error is None:
            raise M2IBError(f"the row of {row['key']!r} has no units: it needs unit_spans, unit_saliency, unit_share")
        return cls(whole)

    def _maps(self) -> UnitMaps:
        if self.whole.units is None:
            raise M2IBError(
                f"the pair {self.whole.pair.id!r} has no units: {self.whole.error or 'it was not grounded'}"
            )
        return self.whole.units


def _mask(region: Sequence[float] | NDArray[np.bool_], width: int, height: int) -> NDArray[np.bool_]:
    values = np.asarray(region)
    if values.shape == (height, width):
        return values.astype(bool)
    if values.shape != (4,):
        raise M2IBError(
            f"a region must be a box (left, top, right, bottom) in pixels, or a mask of the picture ({height}, "
            f"{width}), got {_named(region)}"
        )
    left, top, right, bottom = (float(value) for value in values)
    columns, rows = np.arange(width) + 0.5, np.arange(height) + 0.5
    return np.asarray(((rows >= top) & (rows < bottom))[:, None] & ((columns >= left) & (columns < right))[None])


def _named(region: Any) -> str:
    values = np.asarray(region)
    return str(tuple(values.tolist())) if values.ndim == 1 else f"an array of shape {values.shape}"
