"""Load pairs from any image-text table: CSV, TSV, JSONL, Parquet, an image folder, shards, or a hub data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, register_datamodule
from m2ib_lightning.datamodules.opening import check_open_timeout, open_in_time
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.pair import PairSource, PairStream, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.shards.streams import Shards, open_shards
from m2ib_lightning.pairs.tables.cells import CellReader, Columns
from m2ib_lightning.pairs.tables.open_table import Table, check_no_encoding, open_table

_TARS = (".tar", ".tar.gz", ".tgz")


class CaptionSource:
    """The pairs of a table, one per row. Each caption of a list is a pair, with the key ``<file>:<row>.<item>``.

    Args:
        table: the opened table.
        columns: names of the columns.
        image_root: folder of relative image paths; None for the folder of the data.

    Raises:
        M2IBError: if a column is missing; the message lists the available ones.
    """

    def __init__(self, table: Table, columns: Columns, image_root: Path | None) -> None:
        columns = columns.found_in(table.name, table.columns)
        self.table = table
        self.files: dict[str, str] = {}
        self.reader = CellReader(columns, image_root if image_root is not None else table.folder)
        lengths = table.list_lengths(columns.text)
        self._lengths = None if lengths is None else np.array(lengths, np.int64)
        self._ends = None if self._lengths is None else np.cumsum(np.maximum(self._lengths, 1))

    def __len__(self) -> int:
        return len(self.table) if self._ends is None else int(self._ends[-1])

    def key(self, index: int) -> str:
        """Return the key of a pair: the table, the row, and the item if the cell is a list of captions."""
        row, item = self._place(index)
        return f"{self.table.name}:{row}{'' if item is None else f'.{item}'}"

    def __getitem__(self, index: int) -> RawPair:
        row, item = self._place(index)
        key = self.key(index)
        try:
            cells = self.table[row]
        except Exception as error:  # an unreadable row costs no other row
            message = str(error) if isinstance(error, PairError) else f"{key}: {type(error).__name__}: {error}"
            return RawPair(key=key, image=None, uri=key, caption=None, error=message)
        return self.reader.pair(key, cells, item)

    def _place(self, index: int) -> tuple[int, int | None]:
        """The row of a pair, and its item in the list of captions (None if the cell is not a list)."""
        if self._ends is None or self._lengths is None:
            return index, None
        row = int(np.searchsorted(self._ends, index, side="right"))
        return row, index - (int(self._ends[row - 1]) if row else 0) if self._lengths[row] else None


class CaptionStream:
    """The pairs of shards, read forwards. The keys are ``<shard>:<row>``, or ``<shard>:<row>.<item>`` for a list.

    Args:
        shards: the opened shards.
        name: name of the shards, for the error message.
        columns: names of the columns.
        image_root: folder of relative image paths; None for the folder of the data.

    Raises:
        M2IBError: if a column is missing; the message lists the available ones.
    """

    def __init__(self, shards: Shards, name: str, columns: Columns, image_root: Path | None) -> None:
        columns = columns.found_in(name, shards.columns)
        self.names: Sequence[str] = shards.names
        self.shards = shards
        self.files: dict[str, str] = getattr(shards, "files", {})
        self.reader = CellReader(columns, image_root if image_root is not None else shards.folder)

    def rows(self, shard: int) -> Iterator[list[RawPair]]:
        """Yield the pairs of each row of a shard."""
        for row, cells in enumerate(self.shards.rows(shard)):
            yield self.reader.pairs(f"{self.names[shard]}:{row}", cells)


class CaptionsDataModule(PairDataModule):
    """Loads the pairs of an image-text table.

    Args:
        preparer: the preparer of the model that reads the pairs.
        path: a ``.csv``, ``.tsv``, ``.jsonl`` or ``.parquet`` file, an image folder, a hub data set, or shards.
        columns: names of the columns.
        image_root: folder of relative image paths; None for the table's folder.
        split: split of a hub data set.
        streaming: whether to stream shards (``.parquet``, a hub data set) in constant memory; tars always are.
        encoding: encoding of a text table; None for UTF-8, or UTF-16 with a byte order mark.
        open_timeout: seconds that opening the source may take.
        options: arguments of ``PairDataModule``.
    """

    source_name = "captions"

    def __init__(
        self,
        preparer: Preparer,
        path: str | Path,
        *,
        columns: Columns | None = None,
        image_root: str | Path | None = None,
        split: str = "train",
        streaming: bool = False,
        encoding: str | None = None,
        open_timeout: float = 600.0,
        **options: Any,
    ) -> None:
        super().__init__(preparer, **options)
        check_open_timeout(open_timeout)
        self.open_timeout = open_timeout
        self.path = str(path)
        self.columns = columns or Columns()
        self.image_root = None if image_root is None else Path(image_root).expanduser()
        self.split = split
        self.encoding = encoding
        self.streaming = streaming or self.path.lower().endswith(_TARS)

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> CaptionsDataModule:
        data = config.data
        if data.path is None:
            raise M2IBError(
                "data.name=captions needs data.path: a .csv, .tsv, .jsonl or .parquet file, an image folder with "
                "captions, or a hub data set"
            )
        return cls(
            preparer,
            data.path,
            columns=Columns(
                data.image_column,
                data.text_column,
                data.id_column,
                data.mask_column,
                data.box_column,
                data.negatives_column,
                data.label_column,
            ),
            image_root=data.image_root,
            split=data.split or "train",
            streaming=data.streaming,
            encoding=data.encoding,
            open_timeout=data.open_timeout,
            **loader_arguments(config),
        )

    @override
    def open_source(self) -> PairSource | PairStream:
        if self.image_root is not None and not self.image_root.is_dir():
            raise M2IBError(f"data.image_root={str(self.image_root)!r} is not a folder")
        return open_in_time(self.source_name, self.path, self.open_timeout, self._open)

    def _open(self) -> PairSource | PairStream:
        names = (self.columns.text, self.columns.image)
        if self.streaming:
            check_no_encoding(self.encoding, "a stream of shards")
            return CaptionStream(open_shards(self.path, self.split, names), self.path, self.columns, self.image_root)
        table = open_table(self.path, self.split, names, self.encoding)
        source = CaptionSource(table, self.columns, self.image_root)
        if Path(self.path).expanduser().is_file():
            source.files = {table.name: str(Path(self.path).expanduser())}
        return source


register_datamodule("captions", CaptionsDataModule)
