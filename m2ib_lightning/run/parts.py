"""Schema and Parquet parts of the table: one row per pair, failed ones included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write, first_line
from m2ib_lightning.run.counts import Counts

_FLOATS = pa.list_(pa.float32())

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("id", pa.string(), nullable=False),
        pa.field("image", pa.string()),
        pa.field("caption", pa.string()),
        pa.field("tokens", pa.list_(pa.string())),
        pa.field("token_offsets", pa.list_(pa.list_(pa.int32()))),
        pa.field("text_saliency", _FLOATS),  # nats, one per token
        pa.field("image_saliency", _FLOATS),  # in image_unit, one per cell of the grid, row-major
        pa.field("grid_height", pa.int32()),
        pa.field("grid_width", pa.int32()),
        pa.field("image_width", pa.int32()),  # pixels, after EXIF rotation
        pa.field("image_height", pa.int32()),
        pa.field("crop", pa.list_(pa.int32())),  # left, top, right, bottom
        pa.field("similarity", pa.float32()),  # clean cosine
        pa.field("image_similarity", pa.float32()),  # cosine through the bottleneck, last step
        pa.field("text_similarity", pa.float32()),
        pa.field("image_information", pa.float32()),  # mean nats per element
        pa.field("text_information", pa.float32()),
        pa.field("image_loss", _FLOATS),  # per step
        pa.field("text_loss", _FLOATS),
        pa.field("heatmap", pa.string()),  # file in heatmaps/, or null
        pa.field("error", pa.string()),  # null if the pair was explained
        pa.field("fingerprint", pa.string()),  # of the pair in the source
        pa.field("sentence", pa.string()),  # that the caption is a phrase of, or null
        pa.field("unit_spans", pa.list_(pa.list_(pa.int32()))),  # characters of the caption; null but for task=ground
        pa.field("unit_saliency", pa.list_(_FLOATS)),  # in image_unit, one map per unit, row-major
        pa.field("unit_share", _FLOATS),  # part of the similarity that each unit carries
        pa.field("image_unit", pa.string()),  # of a map along a path of betas; null for nats
    ]
)
"""Columns of the table of ``task=attribute`` and ``task=ground``."""

_ADDED = ("fingerprint", "sentence", "unit_spans", "unit_saliency", "unit_share", "image_unit", "curves")
"""Columns that rows of earlier versions lack."""

COUNTS = b"m2ib"
"""Metadata key of the counts in the footer of a part."""


def to_record_batch(rows: Sequence[dict[str, Any]], schema: pa.Schema = SCHEMA) -> pa.RecordBatch:
    """Return rows as an Arrow record batch; a column that a row lacks is null."""
    columns = {name: [_storable(row.get(name)) for row in rows] for name in schema.names}
    return pa.RecordBatch.from_pydict(columns, schema=schema)


def write_part(table: pa.Table, counts: Counts, path: Path) -> None:
    """Write rows and their counts to a Parquet file, by an atomic write."""
    with atomic_write(path) as file:
        pq.write_table(table.replace_schema_metadata({COUNTS: counts.to_json()}), file)


def read_counts(part: Path) -> Counts:
    """Return the counts of a part's rows. Only the footer is read.

    Raises:
        M2IBError: if the part is damaged.
    """
    try:
        return Counts.from_json(pq.read_metadata(part).metadata[COUNTS])
    except (OSError, ValueError, KeyError, TypeError) as error:  # Arrow's errors are among them
        raise damaged(part, error) from error


def read_part(part: Path, columns: list[str] | None = None) -> pa.Table:
    """Return the rows of a part.

    Args:
        part: path of the Parquet file.
        columns: names of the columns to read; None for all.

    Raises:
        M2IBError: if the part is damaged.
    """
    try:
        if columns is None:
            return pq.read_table(part)
        names = pq.read_schema(part).names
        return complete(pq.read_table(part, columns=[n for n in columns if n in names or n not in _ADDED]), columns)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(part, error) from error


def complete(table: pa.Table, columns: list[str]) -> pa.Table:
    """Return some columns of rows; those that did not exist when the rows were written are null."""
    for name in _ADDED:
        if name in columns and name not in table.column_names:
            kind = SCHEMA.field(name).type if name in SCHEMA.names else pa.null()
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table.select(columns)


def damaged(part: Path, error: Exception) -> M2IBError:
    """Return the error for a part that can't be read."""
    return M2IBError(
        f"{part} could not be read as a part of the table: {first_line(error)}. Put a good copy there; or move it "
        "away, and resume=true does its pairs again"
    )


def _storable(value: Any) -> Any:
    """Replace characters that UTF-8 can't encode (lone surrogates, undecodable file names) with ``?``."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
