"""Open tables: text files line by line, all others through ``datasets`` with undecoded pictures."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.tables.column_names import alike_columns, find_column
from m2ib_lightning.pairs.tables.delimited import open_delimited
from m2ib_lightning.pairs.tables.dialects import DIALECTS
from m2ib_lightning.pairs.tables.folders import FolderTable
from m2ib_lightning.pairs.tables.json_depth import check_json_depth
from m2ib_lightning.pairs.tables.jsonl import open_jsonl
from m2ib_lightning.pairs.tables.text_encoding import encoding_of

_TYPED = {".json": "json", ".parquet": "parquet"}
_SUFFIXES = (*DIALECTS, ".jsonl", *_TYPED)
_MAX_REASON = 500
"""Largest number of characters of another library's message."""

_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


class Table(Protocol):
    """A table whose rows are read by position.

    Attributes:
        name: name of the file or data set, for keys and error messages.
        columns: names of the columns.
        folder: folder of relative image paths.
    """

    name: str
    columns: list[str]
    folder: Path

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        """Return the cells of a row, with a ``PairError`` for a broken cell.

        Raises:
            Exception: if the whole row is broken.
        """

    def list_lengths(self, column: str) -> list[int] | None:
        """Return the length of each row's list in a column (0 for any other cell); None if no cell is a list."""


@dataclass
class DatasetTable:
    """A ``datasets.Dataset`` as a table.

    Attributes:
        name: name of the file or data set, for keys and error messages.
        columns: names of the columns.
        rows: the ``datasets.Dataset``.
        folder: folder of relative image paths.
        classes: class names of each column that holds class numbers.
    """

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

    def list_lengths(self, column: str) -> list[int] | None:
        """Return the length of each row's list in a column (0 for any other cell); None if no cell is a list."""
        import pyarrow.compute as pc
        import pyarrow.types as types

        cells = self.rows.select_columns(column)
        if type(self.rows.features[column]).__name__ == "Json":  # cells of several types
            lengths = [len(cell) if isinstance(cell, list) else None for cell in cells[column]]
        else:
            kind = self.rows.features.arrow_schema.field(column).type
            if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
                return None
            lengths = pc.list_value_length(cells.with_format("arrow")[:][column]).to_pylist()
        return None if all(length is None for length in lengths) else [length or 0 for length in lengths]


def open_table(path: str, split: str, names: tuple[str, str], encoding: str | None = None) -> Table:
    """Open a file, an image folder or a hub data set.

    Args:
        path: path of a file or folder, or name of a hub data set.
        split: split of a hub data set.
        names: names of the text and the image column, for a table without a header or an image folder.
        encoding: value of ``data.encoding``; None for UTF-8, or UTF-16 with a byte order mark.

    Raises:
        M2IBError: if the table does not exist or can't be read; the message says what is expected.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        return _open_folder(file, names, encoding)
    if file.is_file():
        return _open_file(file, names, encoding)
    if file.suffix.lower() in _SUFFIXES or file.is_absolute() or path.count("/") != 1 or path.startswith("."):
        raise M2IBError(f"data.path={path!r} does not exist (no such file or folder, and not a hub data set's name)")
    check_no_encoding(encoding, "a hub data set")
    return _open_hub(path, split)


def check_no_encoding(encoding: str | None, what: str) -> None:
    """Check that ``data.encoding`` is null, for a source whose text has only one encoding.

    Raises:
        M2IBError: if it is not.
    """
    if encoding is not None:
        raise M2IBError(
            f"data.encoding={encoding} is for .csv, .tsv and .jsonl tables and .txt files: {what} needs null"
        )


def _open_file(file: Path, names: tuple[str, str], encoding: str | None) -> Table:
    suffix = file.suffix.lower()
    if suffix not in _SUFFIXES:
        raise M2IBError(f"data.path={str(file)!r}: files must end in {', '.join(_SUFFIXES)}, got {suffix!r}")
    if file.stat().st_size == 0:
        raise M2IBError(f"data.path={str(file)!r} is empty")
    if suffix in DIALECTS:
        return open_delimited(file, names, encoding)
    if suffix == ".jsonl":
        return open_jsonl(file, encoding_of(file, encoding))
    check_no_encoding(encoding, f"a {suffix} file")
    if suffix == ".json":
        check_json_depth(file)
    rows = load_quietly(f"data.path={str(file)!r}", _TYPED[suffix], data_files=str(file))
    return _as_table(file.name, rows, file.parent)


def _open_folder(folder: Path, names: tuple[str, str], encoding: str | None) -> Table:
    """Open an image folder: a ``metadata`` table with ``file_name``, or ``cat.txt`` next to ``cat.jpg``."""
    for name in _METADATA:
        if (folder / name).is_file():
            table = _open_file(folder / name, names, encoding)
            file_name = find_column("file_name", table.columns)
            if file_name is not None and not alike_columns(names[1], table.columns):
                table = _WithAlias(table, file_name, names[1])
            return table
    return FolderTable(folder, names, _METADATA, encoding)


class _WithAlias:
    """A table with a second name for one of its columns."""

    def __init__(self, table: Table, column: str, name: str) -> None:
        self.table, self.column, self.alias = table, column, name
        self.name, self.folder = table.name, table.folder
        self.columns = [*table.columns, name]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> dict[str, Any]:
        cells = self.table[index]
        return cells | {self.alias: cells.get(self.column)}

    def list_lengths(self, column: str) -> list[int] | None:
        return self.table.list_lengths(self.column if column == self.alias else column)


def _open_hub(name: str, split: str) -> Table:
    rows = load_quietly(
        f"data.path={name!r} is no file or folder here, and as a hub data set it",
        name,
        split=split,
        advice="Without a network, download it elsewhere and give its Parquet file.",
    )
    return _as_table(f"{name}/{split}", rows, Path())


def load_quietly(what: str, reader: str, *, split: str = "train", advice: str = "", **options: Any) -> Any:
    """Call ``datasets.load_dataset`` without its progress bars and log lines.

    Args:
        what: description of the source, for the error message.
        reader: first argument of ``load_dataset``.
        split: split to load.
        advice: sentence that the error message ends with.
        **options: further arguments of ``load_dataset``.

    Raises:
        M2IBError: if ``load_dataset`` fails; the message says that ``what`` could not be read, and why.
    """
    import datasets

    logging = datasets.utils.logging
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        return datasets.load_dataset(reader, split=split, **options)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0][:_MAX_REASON]
        if "corresponds to no data" in reason or "BatchSize must be greater than 0" in reason:
            reason = "it has no rows"
        raise M2IBError(f"{what} could not be read: {reason} {advice}".rstrip()) from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _as_table(name: str, rows: Any, folder: Path) -> DatasetTable:
    import datasets

    for column, feature in rows.features.items():
        undecoded = _undecoded(feature)
        if undecoded != feature:
            rows = rows.cast_column(column, undecoded)
    classes = {name: kind.names for name, kind in rows.features.items() if isinstance(kind, datasets.ClassLabel)}
    return DatasetTable(name, list(rows.column_names), rows, folder, classes)


def _undecoded(feature: Any) -> Any:
    """A feature of `datasets` whose pictures, sounds and documents stay bytes, those inside lists and objects too.

    A file chooses its features itself, and their decoders read any format.
    """
    if isinstance(feature, dict):
        return {name: _undecoded(part) for name, part in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(part) for part in feature]
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    decodes = getattr(feature, "decode", False) is True and type(feature).__name__ != "Json"
    return replace(feature, decode=False) if decodes else feature
