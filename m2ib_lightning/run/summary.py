"""``summary.json`` and what it is made of: the table of all ranks and launches, not the memory of one process."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.run.callbacks.table_writer import writer_of
from m2ib_lightning.run.counts import MEANS, Counts
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.journal import journals, part_of, read_journal
from m2ib_lightning.run.parts import read_counts
from m2ib_lightning.run.sharding import Launch
from m2ib_lightning.run.table import parts, source_order


@dataclass(frozen=True)
class Summary:
    """A run so far.

    Attributes:
        counts: over all rows of the table.
        seconds: of work, over all launches: of each launch its slowest rank's.
        total: pairs that the run is to explain; None if that is not known.
        skipped: those of them without a row.
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
        """What ``summary.json`` holds; means are null where there is nothing to average."""
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
            "captions_with_unknown_tokens": counts.unknown,
            "captions_wholly_unknown": counts.wholly_unknown,
            "images_animated": counts.animated,
            **{f"mean_{name}": None if math.isnan(m) else m for name, m in zip(MEANS, means, strict=True)},
        }

    def save(self, run: RunDirectory) -> None:
        """Write ``summary.json``."""
        atomic_write_text(run.summary, json.dumps(self.to_dict(), indent=2) + "\n")


def summarise(run: RunDirectory, launch: Launch, *, lost: Sequence[int] = (), failures: int = 5) -> Summary:
    """Read the parts' footers, what ranks that died left in their journals, and a few rows that failed.

    What is skipped is what the launch had to do and did not: the table may have rows beyond its ``data.limit``, too.
    """
    counts, times, written = Counts(), dict[tuple[int, int], float](), 0
    left = [(part_of(journal), read_journal(journal)[1]) for journal in journals(run.table)]
    for part, found in [*((part, read_counts(part)) for part in parts(run.table)), *left]:
        counts += found
        written += found.rows if writer_of(part)[0] == launch.number else 0
        times[writer_of(part)] = times.get(writer_of(part), 0.0) + found.seconds
    launches = {launch for launch, _ in times}
    seconds = sum(max(time for (number, _), time in times.items() if number == launch) for launch in launches)
    failed = list(first_rows(run, "error", failures, ["error"])) if counts.failed else []
    skipped = None if launch.to_do is None else launch.to_do - written
    return Summary(counts, float(seconds), launch.total, skipped, lost=lost, failures=failed)


def rows_of(run: RunDirectory) -> int:
    """How many rows its parts have."""
    return sum(read_counts(part).rows for part in parts(run.table))


def last_writer(folder: Path) -> int:
    """The last launch that wrote rows; 0 for none."""
    written = [*parts(folder), *(part_of(journal) for journal in journals(folder))]
    return max((writer_of(part)[0] for part in written), default=0)


def first_rows(run: RunDirectory, column: str, most: int, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Some of the rows that have a value in that column (``heatmap`` or ``error``), in source order."""
    counted = {"heatmap": "drawn", "error": "failed"}[column]
    rows: list[dict[str, Any]] = []
    for part in parts(run.table):
        if len(rows) < most and getattr(read_counts(part), counted):
            table = pq.read_table(part, columns=["key", *columns])
            rows += table.filter(pc.is_valid(table[column])).to_pylist()
    rows.sort(key=lambda row: source_order(row["key"]))
    yield from rows[:most]
