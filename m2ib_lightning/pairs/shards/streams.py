"""Open sources larger than memory and disk: tar or Parquet shards and hub data sets, read shard by shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.shards.hub_images import with_image_bytes
from m2ib_lightning.pairs.shards.missing_images import check_image_column, name_missing_images
from m2ib_lightning.pairs.shards.shard_files import (
    KINDS,
    PARQUET,
    basename,
    ending_of,
    find_files,
    is_pattern,
    name_files,
    open_file,
    reason_of,
)
from m2ib_lightning.pairs.shards.tar import Aliases, read_tar
from m2ib_lightning.pairs.tables.column_names import find_column
from m2ib_lightning.pairs.tables.open_table import load_quietly

Row = dict[str, Any] | PairError
Shard = TypeVar("Shard", str, int)
Content = TypeVar("Content")

_SAMPLED_ROWS = 32
"""Number of first samples whose names become the columns of a tar."""

_MAX_UNREADABLE = 10
"""Number of unreadable shards after which opening fails."""

_BATCH_ROWS, _BATCH_BYTES = 64, 8 * 2**20
"""Upper limits for the part of a Parquet file that is decoded at once."""


class Shards(Protocol):
    """Shards of rows in a fixed order, which can be read independently.

    Attributes:
        names: names of the shards, unique and the same in every run; keys are ``<shard>:<row>``.
        columns: names of the columns.
        folder: folder of relative image paths.
    """

    names: list[str]
    columns: list[str]
    folder: Path

    def rows(self, shard: int, /) -> Iterator[Row]:
        """Yield the cells of each row, or a ``PairError`` for a broken row.

        The iterator never raises. If the rest of a shard can't be read, the last row is a ``PairError`` that says so.
        """


def open_shards(path: str, split: str, names: tuple[str, str]) -> Shards:
    """Open tar shards (WebDataset), Parquet shards, or a data set that ``datasets`` streams.

    Args:
        path: a file, a glob (``shards/*.tar``), a brace range (``shards/{00000..00099}.tar``), a folder of ``.tar`` or
            of ``.parquet`` files, a URL of one of these, another folder that ``datasets`` reads, or a hub data set.
        split: split of a data set that ``datasets`` reads.
        names: names of the text and the image column, up to capitals and outer spaces. In a tar that lacks them, they
            are aliases of the caption (``.txt``, ``.text`` or ``.caption``) and of the first image of a sample.

    Raises:
        M2IBError: if the source does not exist or can't be read; the message says what is expected.
    """
    files = find_files(path)
    if not files:
        return _open_dataset(path, split, names[1])
    endings = {ending_of(file) for file in files}
    if None in endings:
        raise M2IBError(f"data.path={path!r}: shards must end in {KINDS}, got {basename(files[0])!r}")
    if not endings.isdisjoint(PARQUET) and not endings.issubset(PARQUET):
        raise M2IBError(f"data.path={path!r} has .tar and .parquet files: give those of one kind, like 'folder/*.tar'")
    if endings.issubset(PARQUET):
        found = _first_readable(path, files, _parquet_columns)
        return FileShards(files, found, _parquet_rows, find_column(names[1], found) or names[1])
    samples = _first_readable(path, files, _tar_samples)
    cells = list(dict.fromkeys(name for sample in samples for name in sample))
    names = find_column(names[0], cells) or names[0], find_column(names[1], cells) or names[1]
    aliases = Aliases.of(samples, names)
    columns = dict.fromkeys(name for cells in (*samples, aliases.columns) for name in cells)
    check_image_column(path, samples, columns, names[1])
    return FileShards(files, list(columns), partial(_tar_rows, aliases=aliases), names[1])


class FileShards:
    """Shards of one file each.

    Args:
        files: paths or URLs.
        columns: names of the columns.
        read: function that yields the rows of a file, and raises if the rest of the file can't be read.
        image: name of the image column.
    """

    def __init__(self, files: list[str], columns: list[str], read: Callable[[str], Iterator[Row]], image: str) -> None:
        self.names, self.folder = name_files(files)
        self.files = dict(zip(self.names, files, strict=True))
        self.columns = columns
        self._files = files
        self._read = read
        self._image = image

    def rows(self, shard: int) -> Iterator[Row]:
        """Yield the rows of the shard's file; if the rest can't be read, the last row is a ``PairError``."""
        rows = self._read(self._files[shard])
        if self._image in self.columns:
            rows = name_missing_images(rows, self.names[shard], self._image)
        return _end_with_error(rows, self.names[shard])


class DatasetShards:
    """The shards of a ``datasets.IterableDataset``.

    Args:
        name: name of the data set.
        data: ``datasets.IterableDataset`` with undecoded pictures.
        folder: folder of relative image paths.
        image: name of the image column.
    """

    def __init__(self, name: str, data: Any, folder: Path, image: str) -> None:
        count = data.num_shards
        self.names = [f"{name}-{index:05d}-of-{count:05d}" for index in range(count)]
        self.columns = list(data.features or ())
        self.folder = folder
        self._data = data
        self.image = image

    def rows(self, shard: int) -> Iterator[Row]:
        """Yield the rows of a shard; if the rest can't be read, the last row is a ``PairError``."""
        return _end_with_error(name_missing_images(self._read(shard), self.names[shard], self.image), self.names[shard])

    def _read(self, shard: int) -> Iterator[Row]:
        import datasets

        features = self._data.features or {}
        pictures = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        classes = {name: kind.names for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)}
        part = self._data.shard(num_shards=len(self.names), index=shard)
        # not iter(part): in a data loader it gives all rows to the first worker and none to the others
        for batch in part.iter(batch_size=1):
            row = {name: cells[0] for name, cells in batch.items()}
            row |= {name: None if row[name] is None else names[row[name]] for name, names in classes.items()}
            yield with_image_bytes(row, pictures)


def _end_with_error(rows: Iterator[Row], shard: str) -> Iterator[Row]:
    """Yield the rows; an exception becomes the last row, a ``PairError``."""
    count = 0
    try:
        for row in rows:
            yield row
            count += 1
    except Exception as error:  # decoders, file systems and `datasets` may raise anything
        what = f"the rest of shard {shard}, from row {count} on," if count else f"shard {shard}"
        yield PairError(f"{what} could not be read: {reason_of(error)}")


def _first_readable(path: str, shards: list[Shard], inspect: Callable[[Shard], Content | None]) -> Content:
    """Return what ``inspect`` gives for the first shard that can be read and is not empty.

    Raises:
        M2IBError: if there is no such shard.
    """
    errors: list[str] = []
    for shard in shards:
        try:
            if (content := inspect(shard)) is not None:
                return content
        except Exception as error:
            errors.append(reason_of(error))
        if len(errors) == _MAX_UNREADABLE:
            break
    if not errors:
        raise M2IBError(f"data.path={path!r} could not be read: it has no rows")
    tried = f"{len(errors)} of {len(shards)} shards were tried and none could be read, the first: "
    raise M2IBError(f"data.path={path!r} could not be read: {tried if len(shards) > 1 else ''}{errors[0]}")


def _tar_rows(file: str, aliases: Aliases | None = None) -> Iterator[Row]:
    with open_file(file) as shard:
        for row in read_tar(shard):
            yield row if aliases is None or isinstance(row, PairError) else aliases.add(row)


def _tar_samples(file: str) -> list[dict[str, Any]] | None:
    """The first samples without their contents, but with their keys; None for an empty tar.

    Raises:
        Exception: if no sample can be read.
    """
    samples: list[dict[str, Any]] = []
    first_error: Exception | None = None
    rows = islice(_tar_rows(file), _SAMPLED_ROWS)
    try:
        for row in rows:
            if isinstance(row, PairError):
                first_error = first_error or row
            else:
                content = {name: b"" if isinstance(cell, bytes) else None for name, cell in row.items()}
                samples.append(content | {"__key__": row["__key__"]})
    except Exception as error:
        first_error = first_error or error
    if first_error is not None and not samples:
        raise first_error
    return samples or None


@contextmanager
def _open_parquet(file: str) -> Iterator[Any]:
    import pyarrow.parquet as pq

    remote = "://" in file  # a remote file is read in a few large requests per row group
    options = {"pre_buffer": remote, "buffer_size": 0 if remote else 2**20, "page_checksum_verification": True}
    with open_file(file) as shard, pq.ParquetFile(shard, **options) as table:
        yield table


def _parquet_columns(file: str) -> list[str]:
    with _open_parquet(file) as table:
        return list(dict.fromkeys(table.schema_arrow.names))


def _parquet_rows(file: str) -> Iterator[Row]:
    with _open_parquet(file) as table:
        names, count = table.schema_arrow.names, 0
        for group in range(table.num_row_groups):
            metadata = table.metadata.row_group(group)
            rows_that_fit = _BATCH_BYTES * metadata.num_rows // max(1, metadata.total_byte_size)
            size = max(1, min(_BATCH_ROWS, rows_that_fit))
            for batch in table.iter_batches(size, row_groups=[group], use_threads=False):
                for index in range(batch.num_rows):
                    yield _parquet_row(names, batch, index)
                count += batch.num_rows
        if count != table.metadata.num_rows:
            raise EOFError(f"it has {count} rows and should have {table.metadata.num_rows}")


def _parquet_row(names: list[str], batch: Any, index: int) -> Row:
    try:
        return {name: column[index].as_py() for name, column in zip(names, batch.columns, strict=True)}
    except (ValueError, OverflowError) as error:  # text that is not UTF-8, a date out of range
        return PairError(f"a cell could not be read: {reason_of(error)}")


def _open_dataset(path: str, split: str, image: str) -> DatasetShards:
    folder = Path(path).expanduser().absolute()
    if folder.is_dir():
        what = f"data.path={path!r} has no {KINDS} files, and as a data set it"
        data = load_quietly(what, str(folder), split=split, streaming=True)
    elif path.count("/") != 1 or path.startswith((".", "/", "~")) or ending_of(path) or is_pattern(path):
        raise M2IBError(f"data.path={path!r} does not exist (no such file or folder, and not a hub data set's name)")
    else:
        what = f"data.path={path!r} is no file or folder here, and as a hub data set it"
        advice = "Without a network, download it elsewhere and give its files."
        data = load_quietly(what, path, split=split, advice=advice, streaming=True)
        folder = Path()
    if data.features:
        data = data.decode(False)  # on a stream, cast_column would decode the pictures and encode them again
    shards = DatasetShards(f"{folder.name or path}/{split}", data, folder, image)
    if not shards.columns:
        indices = list(range(len(shards.names)))
        shards.columns = _first_readable(path, indices, lambda index: _dataset_columns(shards, index))
    shards.image = find_column(image, shards.columns) or image
    return shards


def _dataset_columns(shards: DatasetShards, index: int) -> list[str] | None:
    row = next(shards.rows(index), None)
    if isinstance(row, PairError):
        raise row
    return None if row is None else list(row)
