"""Make pairs from the cells of a row, for tables and streams alike."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from m2ib_lightning.errors import M2IBError, PairError, listed, nearest, quoted
from m2ib_lightning.pairs.embedded import embedded_picture
from m2ib_lightning.pairs.images import ImageLike
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.tables.column_names import alike_columns, find_column
from m2ib_lightning.pairs.tables.image_paths import image_path
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth

_MAX_CAPTION = 2**20
"""Length of the longest caption that is given to the tokenizer."""

_KEYS = {
    **{"image": "image", "text": "text", "id": "id", "mask": "mask", "boxes": "box"},
    **{"negatives": "negatives", "label": "label"},
}
"""What the key of each column is called: ``data.<name>_column``."""


@dataclass(frozen=True)
class Columns:
    """Names of the columns that pairs are made of; None for a column that is not used.

    Attributes:
        image: image column.
        text: caption column.
        id: identifier column.
        mask: mask column.
        boxes: box column.
        negatives: column of hard negatives.
        label: class column.
    """

    image: str = "image"
    text: str = "caption"
    id: str | None = None
    mask: str | None = None
    boxes: str | None = None
    negatives: str | None = None
    label: str | None = None

    def found_in(self, name: str, available: Sequence[str]) -> Columns:
        """Return the columns with the names that a table gives them: spaces around a name and capitals do not count.

        Args:
            name: name of the table, for the error message.
            available: names of the table's columns.

        Raises:
            M2IBError: if a column is missing, or two could be meant; the message lists them.
        """
        found = {field: find_column(column, available) for field, column in asdict(self).items() if column is not None}
        for field, column in found.items():
            if column is None and (alike := alike_columns(getattr(self, field), available)):
                raise M2IBError(
                    f"{name} has more than one column {getattr(self, field)!r}, up to spaces and capitals: "
                    f"{', '.join(map(repr, alike))}. Set data.{_KEYS[field]}_column to the exact name of one"
                )
        columns = replace(self, **{field: column for field, column in found.items() if column is not None})
        columns.check(name, available)
        return columns

    def check(self, name: str, available: Sequence[str]) -> None:
        """Check that a table has columns with exactly these names.

        Args:
            name: name of the table, for the error message.
            available: names of the table's columns.

        Raises:
            M2IBError: if a column is missing; the message lists the available ones.
        """
        for field, column in asdict(self).items():
            if column is not None and column not in available:
                raise M2IBError(
                    f"{name} has no column {column!r} (data.{_KEYS[field]}_column): it has {listed(list(available))}."
                    f"{nearest(column, available)}"
                )


@dataclass(frozen=True)
class CellReader:
    """Makes pairs from the cells of a row.

    Attributes:
        columns: names of the columns.
        image_root: folder of relative image paths.
    """

    columns: Columns
    image_root: Path

    def pair(self, key: str, cells: dict[str, Any] | PairError, item: int | None = None) -> RawPair:
        """Return one pair of a row.

        Args:
            key: key of the pair.
            cells: cells of the row, or the error that makes it unreadable.
            item: index in a list of captions; None for a cell with a single caption.
        """
        if isinstance(cells, PairError):
            return RawPair(key=key, image=None, uri=key, caption=None, error=str(cells))
        try:
            image, uri = self._image(cells.get(self.columns.image), key)
            truth = self._truth(cells, key)
        except Exception as error:  # a broken cell only costs its row
            return RawPair(key=key, image=None, uri=key, caption=None, error=_reason(key, error))
        caption = cells.get(self.columns.text)
        pair = RawPair(key=key, image=image, uri=uri, caption=None, truth=truth)
        if isinstance(caption, PairError):
            return replace(pair, error=str(caption))
        if isinstance(caption, list | np.ndarray):
            if item is None and len(caption) > 1:  # never drop a caption silently
                why = f"the caption is a list of {len(caption)} where the others are text: give one row per caption"
                return replace(pair, error=why)
            caption = caption[item or 0] if len(caption) else None
        if isinstance(caption, str) and len(caption) > _MAX_CAPTION:
            why = f"the caption has {len(caption):,} characters; captions of up to {_MAX_CAPTION:,} are read"
            return replace(pair, error=why)
        identity = None if self.columns.id is None else cells.get(self.columns.id)
        return replace(
            pair,
            caption=str(caption) if isinstance(caption, int | float) else caption,
            id=None if identity is None else str(identity),
        )

    def pairs(self, key: str, cells: dict[str, Any] | PairError) -> list[RawPair]:
        """Return all pairs of a row: one, or one with the key ``<key>.<item>`` for each caption of a list."""
        caption = None if isinstance(cells, PairError) else cells.get(self.columns.text)
        if not isinstance(caption, list | np.ndarray) or len(caption) == 0:
            return [self.pair(key, cells)]
        return [self.pair(f"{key}.{item}", cells, item) for item in range(len(caption))]

    def _truth(self, cells: dict[str, Any], key: str) -> RawTruth | None:
        columns = self.columns
        mask, boxes, negatives, label = (
            None if column is None else cells.get(column)
            for column in (columns.mask, columns.boxes, columns.negatives, columns.label)
        )
        boxes = _boxes_in(boxes)
        if label is not None and (label != label or not str(label).strip()):  # NaN, or blank
            label = None
        if mask is None and boxes is None and negatives is None and label is None:
            return None
        return RawTruth(
            self._image(mask, key)[0],
            boxes,
            others=[OtherCaption("given", text) for text in _hard_negatives(negatives)],
            label=None if label is None else str(label).strip(),
        )

    def _image(self, cell: Any, key: str) -> tuple[ImageLike | None, str]:
        """The image to read, and its name in the results: the path in the table, or the key for an embedded one."""
        if isinstance(cell, dict):  # an undecoded image of `datasets`
            path = cell.get("path")
            content = cell.get("bytes")
            if content is None:
                return self._image(path, key)
            return (embedded_picture(content) or content if isinstance(content, str) else content), path or key
        if cell is None or (isinstance(cell, str) and not cell):
            return None, key
        if isinstance(cell, str):
            if (picture := embedded_picture(cell)) is not None:
                return picture, key
            return image_path(cell, self.image_root), cell
        return cell, key


def _reason(key: str, error: Exception) -> str:
    return str(error) if isinstance(error, PairError) else f"{key}: {type(error).__name__}: {error}"


def _boxes_in(cell: Any) -> Any:
    """The boxes of a cell with a list of boxes, or with one, also in JSON; None for a blank cell."""
    boxes = cell
    if isinstance(cell, str):
        try:
            boxes = json.loads(cell) if cell.strip() else None
        except (ValueError, RecursionError):
            boxes = 0
    if boxes is None:
        return None
    if not isinstance(boxes, list | tuple | np.ndarray):
        raise PairError(f"a box must be [left, top, width, height] in pixels, got {quoted(cell)}")
    one = len(boxes) > 0 and not isinstance(boxes[0], Sequence | np.ndarray)
    return [boxes] if one else boxes


def _hard_negatives(cell: Any) -> list[str]:
    """The texts of a cell that holds a list, a list in JSON, or a single text."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return []
    if isinstance(cell, str):
        try:
            cell = json.loads(cell) if cell.lstrip().startswith("[") else [cell]
        except (ValueError, RecursionError):  # "[sic] a dog"
            cell = [cell]
    if not isinstance(cell, list | np.ndarray) or any(not isinstance(text, str) for text in cell):
        raise TypeError(f"hard negatives must be text or a list of texts, got {quoted(cell)}")
    return list(cell)
