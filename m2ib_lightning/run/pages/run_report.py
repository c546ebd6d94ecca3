"""Writes ``report.html``: all pairs of a run on one page, or on several pages if they are many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2ib_lightning.files import atomic_write
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.page_file import PageFile
from m2ib_lightning.run.pages.page_overview import Overview
from m2ib_lightning.run.pages.page_rows import COLUMNS, page_record
from m2ib_lightning.run.pages.run_facts import run_facts
from m2ib_lightning.run.pages.side_files import Thumbnails
from m2ib_lightning.run.parts import SCHEMA
from m2ib_lightning.run.summary import Summary
from m2ib_lightning.run.table import row_order, tables

MOST_PAIRS = 50_000
"""Pairs that the page of a run's end shows; the page says so where there are more."""

_PAGE_PAIRS = 20_000
_PAGE_BYTES = 64 << 20
_BLOCK = 256


@dataclass(frozen=True)
class PageRows:
    """Where the rows of a page come from.

    Attributes:
        columns: columns of the table to read.
        schema: schema of the table.
        record: function that returns the record of a row.
    """

    columns: tuple[str, ...] = COLUMNS
    schema: pa.Schema = SCHEMA
    record: Callable[[Mapping[str, Any]], dict[str, Any]] = page_record


def write_report(
    run: RunDirectory,
    summary: Summary,
    *,
    most: int | None = MOST_PAIRS,
    make: bool = False,
    rows: PageRows | None = None,
    head: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the page of a run from its table, part by part; return the paths of the pages.

    The first page is ``report.html``. Above 20,000 pairs or 64 MiB there are ``report-2.html`` and so on.

    Args:
        run: the run directory.
        summary: the summary of the run, for its totals.
        most: largest number of pairs on the pages; None for all.
        make: whether to make missing thumbnails from the picture files.
        rows: where the rows come from; None for the table of attributions.
        head: more values for the head of the page.
    """
    rows = rows or PageRows()
    keys = [key for table in tables(run.table, ["key"], rows.schema) for key in table["key"].to_pylist()]
    shown = keys if most is None else keys[:most]
    places = {shown[index]: place for place, index in enumerate(row_order(shown))}
    overview, thumbnails = Overview(), Thumbnails(run, make)
    records = _records(run, rows, places, overview, thumbnails)
    with ExitStack() as stack:
        pages: list[tuple[Path, PageFile]] = []
        while block := list(islice(records, _BLOCK)):
            if not pages or pages[-1][1].rows >= _PAGE_PAIRS or pages[-1][1].bytes >= _PAGE_BYTES:
                pages.append(_open(run, len(pages) + 1, stack))
            pages[-1][1].add(block)
        pages = pages or [_open(run, 1, stack)]
        values = (
            run_facts(run)
            | {"summary": {name: _finite(value) for name, value in summary.to_dict().items()}, "total": summary.total}
            | {"pairs": len(keys), "shown": overview.rows}
            | overview.to_dict()
            | dict(head or {})
        )
        counts = [(path.name, page.rows) for path, page in pages]
        for number, (_, page) in enumerate(pages):
            page.end(values | {"pages": counts, "page": number})
    paths = [path for path, _ in pages]
    for stale in set(run.path.glob("report-*.html")) - set(paths):
        stale.unlink()
    return paths


def _open(run: RunDirectory, number: int, stack: ExitStack) -> tuple[Path, PageFile]:
    path = run.report if number == 1 else run.path / f"report-{number}.html"
    return path, PageFile(stack.enter_context(atomic_write(path)), f"M2IB: {run.path.name}")


def _records(
    run: RunDirectory, rows: PageRows, places: Mapping[str, int], overview: Overview, thumbnails: Thumbnails
) -> Iterator[dict[str, Any]]:
    """Yield the record of each row as the parts have them, with its place ``n`` in the source's order."""
    for table in tables(run.table, list(rows.columns), rows.schema):
        for batch in table.to_batches(max_chunksize=_BLOCK):
            for row in batch.to_pylist():
                if row["key"] not in places:  # beyond the limit, or written by a run at work since the keys were read
                    continue
                record = {"n": places[row["key"]]} | rows.record(row) | thumbnails.of(row)
                drawing = record.get("drawing")
                if drawing and not {"map", "panels"} & set(record) and (run.path / drawing).is_file():
                    record["drawing"] = thumbnails.link(run.path / drawing)
                overview.add(row, record)
                yield record


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value
