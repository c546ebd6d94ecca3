"""Opens tables: text files line by line, all others through ``datasets``, with pictures left undecoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.tables.delimited import DIALECTS, open_delimited
from m2ib_lightning.pairs.tables.folders import FolderTable
from m2ib_lightning.pairs.tables.jsonl import open_jsonl

_TYPED = {".json": "json", ".parquet": "parquet"}
_SUFFIXES = (*DIALECTS, ".jsonl", *_TYPED)
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class Table(Protocol):
    """Rows by position.

    Attributes:
        name: the file's or data set's name, for keys and messages.
        columns: their names.
        folder: where relative image paths start.
    """

    name: str
    columns: list[str]
    folder: Path

    def __len__(self) -> int:
        """How many rows there are."""

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """The cells of a row, a ``PairError`` for one that can't be read; raises if none of them can."""

    def lengths(self, column: str) -> list[int] | None:
        """How many items each row has in a column that holds lists (0: the cell is none); None where none does."""


@dataclass
class DatasetTable:
    """A ``datasets.Dataset`` as a table; ``classes`` are the names of the numbers in columns of classes."""

    name: str
    columns: list[str]
    rows: Any
    folder: Path
    classes: dict[str, list[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.rows[index]
        return row | {name: None if row[name] is None else names[row[name]] for name, names in self.classes.items()}

    def lengths(self, column: str) -> list[int] | None:
        """How many items each row has in a column that holds lists (0: the cell is none); None where none does."""
        import pyarrow.compute as pc
        import pyarrow.types as types

        cells = self.rows.select_columns(column)
        if type(self.rows.features[column]).__name__ == "Json":  # cells of several types
            found = [len(cell) if isinstance(cell, list) else None for cell in cells[column]]
        else:
            kind = self.rows.features.arrow_schema.field(column).type
            if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
                return None
            found = pc.list_value_length(cells.with_format("arrow")[:][column]).to_pylist()
        return [length or 0 for length in found] if any(n is not None for n in found) else None


def open_table(path: str, split: str, names: tuple[str, str]) -> Table:
    """Open a file, an image folder or a hub data set.

    Args:
        path: which.
        split: of a hub data set.
        names: the text and the image column: what a table without a header, or an image folder, gets.

    Raises:
        M2IBError: if it isn't there or can't be read; says what would be right.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        return _open_folder(file, names)
    if file.is_file():
        return _open_file(file, names)
    if file.suffix.lower() in _SUFFIXES or file.is_absolute() or path.count("/") != 1 or path.startswith("."):
        raise M2IBError(f"data.path={path!r} does not exist (no such file or folder, and not a hub data set's name)")
    return _open_hub(path, split)


def _open_file(file: Path, names: tuple[str, str]) -> Table:
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise M2IBError(f"data.path={str(file)!r}: files must end in {', '.join(_SUFFIXES)}, got {suffix!r}")
    if file.stat().st_size == 0:
        raise M2IBError(f"data.path={str(file)!r} is empty")
    if suffix in DIALECTS:
        return open_delimited(file, names)
    if suffix == ".jsonl":
        return open_jsonl(file)
    return _table(
        file.name, load_quietly(f"data.path={str(file)!r}", _TYPED[suffix], data_files=str(file)), file.parent
    )


def _open_folder(folder: Path, names: tuple[str, str]) -> Table:
    """An image folder: a ``metadata`` table with ``file_name``, or ``cat.txt`` beside ``cat.jpg``."""
    for name in _METADATA:
        if (folder / name).is_file():
            table = _open_file(folder / name, names)
            if "file_name" in table.columns and names[1] not in table.columns:
                table = _Renamed(table, "file_name", names[1])
            return table
    return FolderTable(folder, names, _METADATA)


class _Renamed:
    """A table one of whose columns goes by another name too."""

    def __init__(self, table: Table, column: str, name: str) -> None:
        self.table, self.column, self.new = table, column, name
        self.name, self.folder = table.name, table.folder
        self.columns = [*table.columns, name]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        cells = self.table[index]
        return cells | {self.new: cells.get(self.column)}

    def lengths(self, column: str) -> list[int] | None:
        return self.table.lengths(self.column if column == self.new else column)


def _open_hub(name: str, split: str) -> Table:
    rows = load_quietly(
        f"data.path={name!r} is no file or folder here, and as a hub data set it",
        name,
        split=split,
        advice="Without a network, download it elsewhere and give its Parquet file.",
    )
    return _table(f"{name}/{split}", rows, Path())


def load_quietly(what: str, reader: str, *, split: str = "train", advice: str = "", **options: Any) -> Any:
    """``datasets.load_dataset`` without its bars and log lines.

    Raises:
        M2IBError: ``what`` could not be read, and why.
    """
    import datasets

    quiet = datasets.utils.logging
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    verbosity = quiet.get_verbosity()
    quiet.set_verbosity(quiet.CRITICAL)
    try:
        return datasets.load_dataset(reader, split=split, **options)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        if "corresponds to no data" in reason or "BatchSize must be greater than 0" in reason:
            reason = "it has no rows"
        raise M2IBError(f"{what} could not be read: {reason} {advice}".rstrip()) from error
    finally:
        quiet.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _table(name: str, rows: Any, folder: Path) -> DatasetTable:
    import datasets

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    classes = {name: kind.names for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    return DatasetTable(name, list(rows.column_names), rows, folder, classes)
