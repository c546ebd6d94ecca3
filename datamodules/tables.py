"""Opens tables through the ``datasets`` library, with pictures left undecoded: decoding may fail, row by row."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.images import looks_like_an_image

_DELIMITED: dict[str, dict[str, Any]] = {
    ".csv": {"sep": ",", "quoting": csv.QUOTE_MINIMAL},
    ".tsv": {"sep": "\t", "quoting": csv.QUOTE_NONE},  # quotes are text in a TSV
}
_TYPED = {".jsonl": "json", ".json": "json", ".parquet": "parquet"}
_SUFFIXES = (*_DELIMITED, *_TYPED)
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass(frozen=True)
class Table:
    """Rows by position.

    Attributes:
        name: the file's or data set's name, for keys and messages.
        columns: their names.
        rows: the ``datasets.Dataset``.
        folder: where relative image paths start.
    """

    name: str
    columns: list[str]
    rows: Any
    folder: Path

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self.rows[index]
        return row


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
    reader, options = (_TYPED[suffix], {}) if suffix in _TYPED else ("csv", _delimited(file, suffix, names))
    rows = _load(f"data.path={str(file)!r}", reader, data_files=str(file), split="train", **options)
    return _table(file.name, rows, file.parent)


def _delimited(file: Path, suffix: str, names: tuple[str, str]) -> dict[str, Any]:
    """A CSV has no types: every cell stays text, so that a caption "NA" is not null and an id "007" keeps its zeros."""
    from datasets import Features, Value

    dialect = _DELIMITED[suffix]
    with file.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        reader = csv.reader(lines, delimiter=dialect["sep"], quoting=dialect["quoting"])
        first, second = next(reader, []), next(reader, [])
    if len(second) > len(first):  # pandas would take the first column for an index, and shift all others
        raise M2IBError(
            f"data.path={str(file)!r}: line 2 has {len(second)} cells, line 1 has {len(first)}. "
            "A caption with a comma needs quotes around it."
        )
    options: dict[str, Any] = {**dialect, "keep_default_na": False}
    if suffix == ".tsv" and _is_a_row(first, names):
        first = list(names)
        options |= {"names": first, "header": None}
    return {**options, "features": Features({name: Value("string") for name in first})}


def _is_a_row(cells: list[str], names: tuple[str, str]) -> bool:
    """Conceptual Captions ships ``caption<TAB>image`` without a header: its first line ends in an image already."""
    if len(cells) != 2 or any(name in cells for name in names):
        return False
    return "://" in cells[1] or looks_like_an_image(cells[1])


def _open_folder(folder: Path, names: tuple[str, str]) -> Table:
    """An image folder: a ``metadata`` table with ``file_name``, or ``cat.txt`` beside ``cat.jpg``."""
    for name in _METADATA:
        if (folder / name).is_file():
            table = _open_file(folder / name, names)
            if "file_name" in table.columns and names[1] not in table.columns:
                table = _table(table.name, table.rows.rename_column("file_name", names[1]), folder)
            return table
    images = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and looks_like_an_image(path.name) and not path.name.startswith(".")
    )
    if not any(path.with_suffix(".txt").is_file() for path in images):
        raise M2IBError(
            f"data.path={str(folder)!r} has {len(images)} images and no captions: put {', '.join(_METADATA)} with the "
            "columns file_name and caption in it, or a text file beside each image (cat.txt beside cat.jpg)"
        )
    from datasets import Dataset

    rows = Dataset.from_dict(
        {
            names[1]: [path.relative_to(folder).as_posix() for path in images],
            names[0]: [_beside(path.with_suffix(".txt")) for path in images],
        }
    )
    return _table(folder.resolve().name, rows, folder)


def _beside(file: Path) -> str | None:
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.is_file() else None


def _open_hub(name: str, split: str) -> Table:
    rows = _load(
        f"data.path={name!r} is no file or folder here, and as a hub data set it",
        name,
        split=split,
        advice="Without a network, download it elsewhere and give its Parquet file.",
    )
    return _table(f"{name}/{split}", rows, Path())


def _load(what: str, reader: str, *, advice: str = "", **options: Any) -> Any:
    import datasets

    quiet = datasets.utils.logging
    bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    verbosity = quiet.get_verbosity()
    quiet.set_verbosity(quiet.CRITICAL)
    try:
        return datasets.load_dataset(reader, **options)
    except Exception as error:
        reason = str(error.__cause__ or error).strip().split("\n")[0]
        if "decode byte" in reason:
            advice = "Save it as UTF-8."
        if "corresponds to no data" in reason:
            reason = "it has no rows"
        raise M2IBError(f"{what} could not be read: {reason} {advice}".rstrip()) from error
    finally:
        quiet.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _table(name: str, rows: Any, folder: Path) -> Table:
    import datasets

    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
    return Table(name, list(rows.column_names), rows, folder)
