"""Any image-text table: CSV, TSV, JSONL, Parquet, an image folder, or a hub data set; columns by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, register_datamodule
from m2ib_lightning.datamodules.tables import Table, open_table
from m2ib_lightning.errors import M2IBError, PairError, nearest
from m2ib_lightning.images import ImageLike
from m2ib_lightning.pairs import PairSource, RawPair
from m2ib_lightning.prepare import Preparer


@dataclass(frozen=True)
class Columns:
    """Which columns hold what."""

    image: str = "image"
    text: str = "caption"
    id: str | None = None


class CaptionSource:
    """The rows of a table as pairs; a row with a list of captions is a pair each, with keys ``<file>:<row>.<item>``.

    Args:
        table: the opened table.
        columns: which columns hold what.
        image_root: where relative image paths start.

    Raises:
        M2IBError: if a column is missing; lists those that exist.
    """

    def __init__(self, table: Table, columns: Columns, image_root: Path | None) -> None:
        for key, column in (("image_column", columns.image), ("text_column", columns.text), ("id_column", columns.id)):
            if column is not None and column not in table.columns:
                raise M2IBError(
                    f"{table.name} has no column {column!r} (data.{key}): it has {', '.join(table.columns)}."
                    f"{nearest(column, table.columns)}"
                )
        self.table = table
        self.columns = columns
        self.image_root = image_root if image_root is not None else table.folder
        lengths = table.lengths(columns.text)
        self._lengths = None if lengths is None else np.array(lengths, np.int64)
        self._ends = None if self._lengths is None else np.cumsum(np.maximum(self._lengths, 1))

    def __len__(self) -> int:
        return len(self.table) if self._ends is None else int(self._ends[-1])

    def key(self, index: int) -> str:
        """The table and the row; where the cell is a list, which of its captions."""
        row, item = self._place(index)
        listed = self._lengths is not None and self._lengths[row] > 0
        return f"{self.table.name}:{row}{f'.{item}' if listed else ''}"

    def __getitem__(self, index: int) -> RawPair:
        row, item = self._place(index)
        key = self.key(index)
        try:
            cells = self.table[row]
            image, uri = self._image(cells.get(self.columns.image), key)
        except Exception as error:  # a row that can't be read, in whatever way, costs itself alone
            why = str(error) if isinstance(error, PairError) else f"{key}: {type(error).__name__}: {error}"
            return RawPair(key=key, image=None, uri=key, caption=None, error=why)
        caption = cells.get(self.columns.text)
        if isinstance(caption, PairError):
            return RawPair(key=key, image=image, uri=uri, caption=None, error=str(caption))
        if isinstance(caption, list | np.ndarray):
            if self._ends is None and len(caption) > 1:  # never leave a caption out unsaid
                why = f"the caption is a list of {len(caption)} where the others are text: give a row each"
                return RawPair(key=key, image=image, uri=uri, caption=None, error=why)
            caption = caption[item] if len(caption) else None
        identity = None if self.columns.id is None else cells.get(self.columns.id)
        return RawPair(
            key=key,
            image=image,
            uri=uri,
            caption=str(caption) if isinstance(caption, int | float) else caption,
            id=None if identity is None else str(identity),
        )

    def _place(self, index: int) -> tuple[int, int]:
        """The row of a pair, and which item of its list of captions it is."""
        if self._ends is None:
            return index, 0
        row = int(np.searchsorted(self._ends, index, side="right"))
        return row, index - (int(self._ends[row - 1]) if row else 0)

    def _image(self, cell: Any, key: str) -> tuple[ImageLike | None, str]:
        """What to open, and how the row names it: the table's own path, or the key for a picture inside the table."""
        if isinstance(cell, dict):  # a `datasets` image that was not decoded
            path = cell.get("path")
            return (cell["bytes"], path or key) if cell.get("bytes") is not None else self._image(path, key)
        if cell is None or cell == "":
            return None, key
        if isinstance(cell, str):
            return (cell if "://" in cell else self.image_root / cell), cell
        return cell, key


class CaptionsDataModule(PairDataModule):
    """An image-text table as pairs.

    Args:
        preparer: of the model that reads them.
        path: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, an image folder, or a hub data set.
        columns: which columns hold what.
        image_root: where relative image paths start; None for the table's folder.
        split: of a hub data set.
        options: ``PairDataModule``'s.
    """

    def __init__(
        self,
        preparer: Preparer,
        path: str | Path,
        *,
        columns: Columns | None = None,
        image_root: str | Path | None = None,
        split: str = "train",
        **options: Any,
    ) -> None:
        super().__init__(preparer, **options)
        self.path = str(path)
        self.columns = columns or Columns()
        self.image_root = None if image_root is None else Path(image_root).expanduser()
        self.split = split

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> CaptionsDataModule:
        data = config.data
        if data.path is None:
            raise M2IBError(
                "data.name=captions needs data.path: a .csv, .tsv, .jsonl or .parquet file, an image folder with "
                "captions beside it, or a hub data set"
            )
        return cls(
            preparer,
            data.path,
            columns=Columns(data.image_column, data.text_column, data.id_column),
            image_root=data.image_root,
            split=data.split,
            **loader_arguments(config),
        )

    @override
    def open_source(self) -> PairSource:
        if self.image_root is not None and not self.image_root.is_dir():
            raise M2IBError(f"data.image_root={str(self.image_root)!r} is not a folder")
        table = open_table(self.path, self.split, (self.columns.text, self.columns.image))
        return CaptionSource(table, self.columns, self.image_root)


register_datamodule("captions", CaptionsDataModule)
