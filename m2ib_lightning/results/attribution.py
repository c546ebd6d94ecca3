"""The result for one pair: saliency in nats, how the optimisation went, and what a table row holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.drawing import draw_attribution
from m2ib_lightning.results.html import attribution_fragment, attribution_page

Floats = NDArray[np.float32]

NOT_FINITE = (
    "the loss or the saliency is not finite: the model gives NaN or infinity for this pair (look for NaN in its "
    "weights, or use a wider trainer.precision)"
)
_NO_CAPTION = "the image was explained against an embedding, not a caption"


@dataclass(frozen=True)
class TowerAttribution:
    """One tower's part of a result.

    Attributes:
        saliency: (grid_h, grid_w) for the image, (tokens,) for the text, specials excluded; nats if M2IB made it.
        loss: per step; None, as those below, for a method that does not optimise.
        information: per step, mean nats per token and channel.
        similarity: per step, mean cosine through the bottleneck.
    """

    saliency: Floats
    loss: Floats | None = None
    information: Floats | None = None
    similarity: Floats | None = None

    @property
    def last_information(self) -> float | None:
        """Of the last step."""
        return None if self.information is None else float(self.information[-1])

    @property
    def last_similarity(self) -> float | None:
        """Of the last step."""
        return None if self.similarity is None else float(self.similarity[-1])


@dataclass(frozen=True)
class Attribution:
    """What in this picture, and which words of this caption, made the model match them.

    Attributes:
        pair: the pair it explains.
        similarity: cosine of the clean embeddings.
        image: the image tower's part; None when the pair failed.
        text: the text tower's part; None when the pair failed, or when the image was explained against an embedding.
        heatmap: the file it was drawn to, relative to the run's ``heatmaps``; None if it was not.
        error: why it failed, or None.
        unit: of the saliency: "nats" if M2IB made it, else nothing.
    """

    pair: Pair
    similarity: float = float("nan")
    image: TowerAttribution | None = None
    text: TowerAttribution | None = None
    heatmap: str | None = None
    error: str | None = None
    unit: str = "nats"

    @property
    def tokens(self) -> list[str]:
        """The caption's tokens, specials excluded."""
        return self.pair.tokens

    @property
    def final_loss(self) -> float | None:
        """Of both towers together, in the last step; None for a method that does not optimise."""
        losses = [part.loss for part in (self.image, self.text) if part is not None and part.loss is not None]
        return float(sum(loss[-1] for loss in losses)) if losses else None

    @property
    def image_saliency(self) -> Floats:
        """(grid_h, grid_w), per patch."""
        return self._part("image").saliency

    @property
    def text_saliency(self) -> Floats:
        """(tokens,), per token."""
        return self._part("text").saliency

    @property
    def image_heatmap(self) -> Floats:
        """(H, W) in [0, 1], at the image's own size, for eyes: bilinear, min-max, 0 outside what the model saw.

        Of what the model saw, only the part that is picture counts: with ``fit="pad"`` the margin is left out.
        """
        return self.heatmap_at(*self.pair.image_size)

    @property
    def text_heatmap(self) -> Floats:
        """(tokens,) in [0, 1], for eyes: min-max over the words (0 for all where they are equal)."""
        return min_max(self.text_saliency)

    def heatmap_at(self, width: int, height: int) -> Floats:
        """``image_heatmap`` for the picture at another size: (height, width)."""
        rows, columns, inside = self._enlarged(width, height)
        heatmap = np.zeros((height, width), np.float32)
        heatmap[rows, columns] = min_max(inside)
        return heatmap

    def saliency_at(self, width: int, height: int) -> Floats:
        """(height, width): the raw map on the picture at some size, bilinear; NaN where the model saw nothing."""
        rows, columns, inside = self._enlarged(width, height)
        saliency = np.full((height, width), np.nan, np.float32)
        saliency[rows, columns] = inside
        return saliency

    def _enlarged(self, width: int, height: int) -> tuple[slice, slice, Floats]:
        """What the model saw of the picture at that size: its rows, its columns, and the map there."""
        grid = Image.fromarray(self.image_saliency.astype(np.float32))
        left, top, right, bottom = self.pair.crop
        columns, across = _laid((left, right), self.pair.image_size[0], width, grid.width)
        rows, down = _laid((top, bottom), self.pair.image_size[1], height, grid.height)
        inside = grid.resize(
            (columns.stop - columns.start, rows.stop - rows.start),
            Image.Resampling.BILINEAR,
            box=(across[0], down[0], across[1], down[1]),
        )
        return rows, columns, np.asarray(inside)

    def show(self) -> None:
        """Open the picture in the system's viewer; a notebook shows the object itself."""
        draw_attribution(self).show()

    def save(self, path: str | Path) -> None:
        """Write ``.png`` (overlay and caption) or ``.html`` (the same as a page, text selectable).

        Raises:
            M2IBError: on another ending.
        """
        path = Path(path)
        if path.suffix.lower() == ".png":
            draw_attribution(self).save(path)
        elif path.suffix.lower() in (".html", ".htm"):
            path.write_text(attribution_page(self), encoding="utf-8", errors="replace")
        else:
            raise M2IBError(f"save({str(path)!r}): the file must end in .png or .html, got {path.suffix!r}")

    def _repr_html_(self) -> str:
        return attribution_fragment(self)

    def _part(self, name: str) -> TowerAttribution:
        part: TowerAttribution | None = getattr(self, name)
        if part is None:
            raise M2IBError(f"the pair {self.pair.id!r} has no {name} result: {self.error or _NO_CAPTION}")
        return part

    def drawn_as(self, file: str) -> Attribution:
        """The same, drawn to that file."""
        return replace(self, heatmap=file)

    def to_row(self) -> dict[str, Any]:
        """The table row, as ``m2ib_lightning.run.parts.SCHEMA`` has it."""
        pair = self.pair
        row: dict[str, Any] = {"key": pair.key, "id": pair.id, "image": pair.image, "caption": pair.caption}
        if self.image is None:
            return row | {"error": self.error}
        height, width = self.image.saliency.shape
        return row | {
            "tokens": pair.tokens,
            "token_offsets": [list(offset) for offset in pair.token_offsets],
            "image_saliency": self.image.saliency.ravel(),
            "grid_height": height,
            "grid_width": width,
            "image_width": pair.image_size[0],
            "image_height": pair.image_size[1],
            "crop": list(pair.crop),
            "similarity": self.similarity,
            "image_similarity": self.image.last_similarity,
            "image_information": self.image.last_information,
            "image_loss": self.image.loss,
            "heatmap": self.heatmap,
            **self._text_row(),
        }

    def _text_row(self) -> dict[str, Any]:
        if self.text is None:
            return {}
        return {
            "text_saliency": self.text.saliency,
            "text_similarity": self.text.last_similarity,
            "text_information": self.text.last_information,
            "text_loss": self.text.loss,
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Attribution:
        """The inverse of ``to_row``, for rows of ``load_attributions``: to draw a pair, or to lay its map back.

        It has what the row has: the losses of all steps; information and similarity of the last step alone, as arrays
        of length 1; no picture. What the row does not say is None, and without losses the unit is nothing. A row that
        failed keeps its ``error``.

        Raises:
            M2IBError: if the row has neither a map nor an error, or its columns do not fit each other.

        >>> Attribution.from_row({"key": "a.csv:0", "id": "a", "error": "the caption is empty"}).error
        'the caption is empty'
        """
        pair = _pair_of(row)
        if pair.error is not None:
            return cls(pair, error=pair.error)
        _check_map(row)
        image, text = _part_of(row, "image"), _part_of(row, "text")
        similarity = row.get("similarity")
        return cls(
            pair,
            float("nan") if similarity is None else float(similarity),
            image,
            text,
            row.get("heatmap"),
            unit="" if image is None or image.loss is None else "nats",
        )


_MAP = ("image_saliency", "grid_height", "grid_width", "image_width", "image_height", "crop")
"""The columns that a map is laid back from."""


def _pair_of(row: Mapping[str, Any]) -> Pair:
    """What a row knows of its pair."""
    for name in ("key", "id"):
        if row.get(name) is None:
            raise M2IBError(
                f"a row of a run's table has 'key' and 'id', this one has no {name!r}: load that column too"
            )
    crop = row.get("crop")
    return Pair(
        row["key"],
        row["id"],
        row.get("image") or "",
        row.get("caption"),
        tokens=list(row.get("tokens") or ()),
        token_offsets=[(start, end) for start, end in row.get("token_offsets") or ()],
        image_size=(row.get("image_width") or 0, row.get("image_height") or 0),
        crop=(0, 0, 0, 0) if crop is None else (crop[0], crop[1], crop[2], crop[3]),
        error=row.get("error"),
    )


def _check_map(row: Mapping[str, Any]) -> None:
    """Raise unless a map can be laid back from the row."""
    for name in _MAP:
        if row.get(name) is None:
            raise M2IBError(f"the row of {row['key']!r} has no error and no {name!r}: load it with {', '.join(_MAP)}")
    patches, height, width = len(row["image_saliency"]), row["grid_height"], row["grid_width"]
    if patches != height * width:
        raise M2IBError(f"the row of {row['key']!r} must have {height} x {width} patches, got {patches}: it is damaged")


def _part_of(row: Mapping[str, Any], tower: str) -> TowerAttribution | None:
    """What a row knows of a tower; None if it has no map of it."""
    saliency, *rest = (row.get(f"{tower}_{name}") for name in ("saliency", "loss", "information", "similarity"))
    if saliency is None:
        return None
    saliency = np.asarray(saliency, np.float32)
    if tower == "image":
        saliency = saliency.reshape(row["grid_height"], row["grid_width"])
    return TowerAttribution(saliency, *(None if value is None else np.atleast_1d(np.float32(value)) for value in rest))


def _laid(seen: tuple[int, int], full: int, drawn: int, cells: int) -> tuple[slice, tuple[float, float]]:
    """Along one axis: the pixels (of ``drawn``) that show what was seen, and where in the grid they lie."""
    first = min(round(max(seen[0], 0) * drawn / full), drawn - 1)
    last = max(round(min(seen[1], full) * drawn / full), first + 1)
    ends = ((edge * full / drawn - seen[0]) / (seen[1] - seen[0]) * cells for edge in (first, last))
    start, end = (min(max(end, 0.0), float(cells)) for end in ends)
    return slice(first, last), (start, end)


def min_max(values: NDArray[Any]) -> Floats:
    """Scale to [0, 1]; zeros where all values are equal.

    >>> min_max(np.array([1.0, 3.0, 2.0])).tolist()
    [0.0, 1.0, 0.5]
    >>> min_max(np.array([2.0, 2.0])).tolist()
    [0.0, 0.0]
    """
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(values.shape, np.float32)
    return ((values - low) / (high - low)).astype(np.float32)
