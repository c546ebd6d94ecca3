"""The result for one pair: what to read, draw, save and write to a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from typing_extensions import override

from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.drawable import Drawable
from m2ib_lightning.results.drawing import attribution_figure
from m2ib_lightning.results.figures.figure import Figure
from m2ib_lightning.results.figures.overlays import Style
from m2ib_lightning.results.html import attribution_page
from m2ib_lightning.results.map_placement import place_map
from m2ib_lightning.results.notebook import attribution_display
from m2ib_lightning.results.row_form import fields_of, row_of
from m2ib_lightning.results.tower_attribution import Floats, TowerAttribution, min_max
from m2ib_lightning.results.unit_maps import UnitMaps

NOT_FINITE = (
    "the loss or the saliency is not finite: the model gives NaN or infinity for this pair (look for NaN in its "
    "weights, or use a wider trainer.precision)"
)
_NO_CAPTION = "the image was explained against an embedding, not a caption"


@dataclass(frozen=True)
class Attribution(Drawable):
    """The result for a pair: which parts of its picture and which words of its caption made the model match them.

    Attributes:
        pair: the explained pair.
        similarity: cosine of the clean embeddings.
        image: the image tower's part; None when the pair failed.
        text: the text tower's part; None when the pair failed, or when the image was explained against an embedding.
        heatmap: file of the drawn picture, relative to the run's ``heatmaps`` folder; None if there is no such file.
        error: why the pair failed, or None.
        unit: unit of the saliency: "nats" if M2IB made it, else empty.
        image_unit: unit of the saliency of patches where it is another one, as along a path of betas; else None.
        units: maps of the units of the caption (``pair.units``); None for a pair that was not grounded.
    """

    pair: Pair
    similarity: float = float("nan")
    image: TowerAttribution | None = None
    text: TowerAttribution | None = None
    heatmap: str | None = None
    error: str | None = None
    unit: str = "nats"
    image_unit: str | None = None
    units: UnitMaps | None = None

    @property
    def tokens(self) -> list[str]:
        """Tokens of the caption, without special tokens."""
        return self.pair.tokens

    @property
    def final_loss(self) -> float | None:
        """Sum of both towers' losses at the last step; None for a method that does not optimise."""
        losses = [part.loss for part in (self.image, self.text) if part is not None and part.loss is not None]
        return float(sum(loss[-1] for loss in losses)) if losses else None

    @property
    def image_saliency(self) -> Floats:
        """Raw saliency of each patch, (grid_h, grid_w)."""
        return self._part("image").saliency

    @property
    def text_saliency(self) -> Floats:
        """Raw saliency of each token, (tokens,); 0 for a token that the tower never reads (``pair.unread``)."""
        return self._part("text").saliency

    @property
    def image_heatmap(self) -> Floats:
        """Heatmap (H, W) in [0, 1] at the image's own size, for display: bilinear, min-max.

        It is 0 where the model saw nothing. It does not include the margin of ``fit="pad"``.
        """
        return self.heatmap_at(*self.pair.image_size)

    @property
    def text_heatmap(self) -> Floats:
        """Heatmap (tokens,) in [0, 1], for display: min-max over the tokens, zeros if they are all equal.

        Tokens that the tower never reads are 0, and do not count for the minimum.
        """
        read = np.ones(len(self.text_saliency), bool)
        read[self.pair.unread] = False
        heatmap = np.zeros(len(read), np.float32)
        heatmap[read] = min_max(self.text_saliency[read])
        return heatmap

    def heatmap_at(self, width: int, height: int) -> Floats:
        """Return the image heatmap in [0, 1] at another size of the picture, as (height, width)."""
        placed = place_map(self.image_saliency, self.pair, width, height)
        return replace(placed, values=min_max(placed.values)).on_canvas(width, height, fill=0.0)

    def saliency_at(self, width: int, height: int) -> Floats:
        """Return the raw image saliency at a size of the picture, as (height, width).

        It is enlarged bilinearly, and NaN where the model saw nothing.
        """
        return place_map(self.image_saliency, self.pair, width, height).on_canvas(width, height, fill=np.nan)

    @override
    def figure(self, style: Style = "alpha", size: int | None = None, scale: float = 1.0) -> Figure:
        """Return the drawing as a figure, before it becomes pixels or vectors.

        Args:
            style: how the map lies on the picture: ``alpha`` (colours that are opaque where the map is high),
                ``contour`` (lines at 1/4, 1/2 and 3/4 of its range), ``patches`` (as ``alpha``, one colour a patch), or
                ``side`` (the map alone, beside the picture).
            size: longer side of the picture in pixels, before ``scale``; None for 288, more for panoramas.
            scale: factor of everything, texts included.

        Raises:
            M2IBError: if the pair failed, its picture was not kept, or an argument is out of range.
        """
        return attribution_figure(self, style, size, scale)

    @override
    def page(self) -> str:
        """Return the page: the overlay, the caption with its coloured words, and the facts."""
        return attribution_page(self)

    def _repr_html_(self) -> str:
        return attribution_display(self)

    def __repr__(self) -> str:
        if self.error is not None:
            return f"Attribution({quoted(self.pair.id)}, error={quoted(self.error)})"
        about = "an embedding" if self.pair.caption is None else quoted(self.pair.caption)
        grid = "" if self.image is None else "; {} x {} patches".format(*self.image.saliency.shape)
        words = "" if self.text is None else f", {len(self.tokens)} tokens"
        units = "" if self.units is None else f", {len(self.pair.units)} units"
        return f"Attribution({about}, similarity {self.similarity:.3f}{grid}{words}{units})"

    def _part(self, name: str) -> TowerAttribution:
        part: TowerAttribution | None = getattr(self, name)
        if part is None:
            raise M2IBError(f"the pair {self.pair.id!r} has no {name} result: {self.error or _NO_CAPTION}")
        return part

    def drawn_as(self, file: str) -> Attribution:
        """Return a copy of the result with ``file`` as its ``heatmap``."""
        return replace(self, heatmap=file)

    def to_row(self) -> dict[str, Any]:
        """Return the table row of this result. The columns are those of ``m2ib_lightning.run.parts.SCHEMA``."""
        return row_of(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Attribution:
        """Restore a result from its table row, as ``load_attributions`` returns it.

        The result has the losses of all steps. Of information and similarity it has the last step only, as arrays of
        length 1. It has no picture. Columns that the row lacks are None, and without losses the unit is empty. The row
        of a failed pair keeps its ``error``.

        Raises:
            M2IBError: if the row has neither a map nor an error, or its columns do not agree with each other.

        >>> Attribution.from_row({"key": "a.csv:0", "id": "a", "error": "the caption is empty"}).error
        'the caption is empty'
        """
        return cls(**fields_of(row))
