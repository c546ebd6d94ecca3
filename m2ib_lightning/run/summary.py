"""The summary of a run, computed from the table of all its ranks and launches."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.run.callbacks.table_writer import writer_of
from m2ib_lightning.run.counts import MEANS, Counts
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.journal import journals, part_of, read_journal
from m2ib_lightning.run.parts import read_counts, read_part
from m2ib_lightning.run.sharding import Launch
from m2ib_lightning.run.table import parts, source_order


@dataclass(frozen=True)
class Summary:
    """Counts, times and failures of a run.

    Attributes:
        counts: counts over all rows of the table.
        seconds: the sum over launches of the slowest rank's working time, in seconds.
        total: number of pairs to explain; None if unknown.
        skipped: number of pairs to explain that have no row; None if unknown.
        missing: keys of the first pairs without a row.
        lost: ranks of the last launch that died.
        failures: the first failed rows (``key`` and ``error``).
    """

    counts: Counts
    seconds: float
    total: int | None
    skipped: int | None
    missing: Sequence[str] = ()
    lost: Sequence[int] = ()
    failures: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``summary.json``; a mean over no values is None."""
        counts, seconds = self.counts, self.seconds
        means = [total / counts.done if counts.done else math.nan for total in counts.sums]
        return {
            "pairs_done": counts.done,
            "pairs_failed": counts.failed,
            "pairs_skipped": self.skipped,
            "first_skipped": list(self.missing),
            "ranks_lost": list(self.lost),
            "seconds": seconds,
            "pairs_per_second": counts.rows / seconds if seconds else None,
            "captions_truncated": counts.truncated,
            "captions_unread": counts.unread,
            "captions_with_unknown_tokens": counts.unknown,
            "captions_wholly_unknown": counts.wholly_unknown,
            "images_animated": counts.animated,
            "pairs_with_truth": counts.marked,
            "truth_partly_cut_away": counts.partly_cut,
            "truth_wholly_cut_away": counts.wholly_cut,
            **{f"mean_{name}": None if math.isnan(m) else m for name, m in zip(MEANS, means, strict=True)},
        }

    def save(self, run: RunDirectory) -> None:
        """Write ``summary.json`` to a run directory, by an atomic write."""
        atomic_write_text(run.summary, json.dumps(self.to_dict(), indent=2) + "\n")


def summarise(run: RunDirectory, launch: Launch | None, *, lost: Sequence[int] = (), failures: int = 5) -> Summary:
    """Return the summary of a run from the footers of its parts and the journals of ranks that died.

    The skipped pairs are those that the launch had to do and did not. The total of the table is not used, because the
    table may have rows beyond the launch's ``data.limit``.

    Args:
        run: the run directory.
        launch: the last launch of the run; None if it is not known what was to do.
        lost: ranks of the launch that died.
        failures: largest number of failed rows in the summary.
    """
    counts, times, written = Counts(), dict[tuple[int, int], float](), 0
    recovered = [(part_of(journal), read_journal(journal)[1]) for journal in journals(run.table)]
    for part, part_counts in [*((part, read_counts(part)) for part in parts(run.table)), *recovered]:
        counts += part_counts
        written += part_counts.rows if launch and writer_of(part)[0] == launch.number else 0
        times[writer_of(part)] = times.get(writer_of(part), 0.0) + part_counts.seconds
    numbers = {number for number, _ in times}
    seconds = sum(max(time for (number, _), time in times.items() if number == each) for each in numbers)
    failed = list(first_rows(run, "error", failures, ["error"])) if counts.failed else []
    to_do = None if launch is None else launch.to_do
    skipped = None if to_do is None else to_do - written
    return Summary(
        counts, float(seconds), None if launch is None else launch.total, skipped, lost=lost, failures=failed
    )


def count_rows(run: RunDirectory) -> int:
    """Return the number of rows in the parts of a run, without those of journals."""
    return sum(read_counts(part).rows for part in parts(run.table))


def last_launch(folder: Path) -> int:
    """Return the number of the last launch that wrote rows to the folder of a table; 0 if there is none."""
    written = [*parts(folder), *(part_of(journal) for journal in journals(folder))]
    return max((writer_of(part)[0] for part in written), default=0)


def first_rows(run: RunDirectory, column: str, limit: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yield up to ``limit`` rows of the first parts that have a value in a column, in source order.

    Args:
        run: the run directory.
        column: ``heatmap`` or ``error``.
        limit: largest number of rows.
        columns: names of the columns to read, besides ``key``.
    """
    count = {"heatmap": "drawn", "error": "failed"}[column]
    rows: list[dict[str, Any]] = []
    for part in parts(run.table):
        if len(rows) < limit and getattr(read_counts(part), count):
            table = read_part(part, ["key", *columns])
            rows += table.filter(pc.is_valid(table[column])).to_pylist()
    rows.sort(key=lambda row: source_order(row["key"]))
    yield from rows[:limit]
