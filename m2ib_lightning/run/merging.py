"""Merge at the end of a run: one summary and one report for the rows of all ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from m2ib_lightning.pairs.pair import PairSource, PairStream
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.done_rows import done_keys, remaining_positions
from m2ib_lightning.run.pages.run_report import write_report
from m2ib_lightning.run.sharding import Launch
from m2ib_lightning.run.summary import Summary, summarise

_MAX_MISSING = 20
"""Number of missing pairs that the summary lists."""


def merge(
    run: RunDirectory,
    launch: Launch,
    rank: int,
    source: PairSource | PairStream,
    total: int | None,
    report: Callable[[RunDirectory, Summary], object] = write_report,
    on_counted: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Write ``summary.json`` and the report, and return the summary.

    The last rank calls it, when no other rank is at work.

    Args:
        run: the run directory.
        launch: the launch that ends.
        rank: rank of this process.
        source: source of the pairs.
        total: number of pairs to explain; None for a stream.
        report: function that writes the report.
        on_counted: function called with the summary before the slower steps, because a job may have little time left.
    """
    lost = [other for other, state in launch.others(rank).items() if state == "lost"]
    summary = summarise(run, launch, lost=lost)
    on_counted(summary)
    if summary.skipped:
        summary = replace(summary, missing=_missing_keys(run, source, total))
    summary.save(run)
    report(run, summary)
    return summary


def _missing_keys(run: RunDirectory, source: PairSource | PairStream, total: int | None) -> list[str]:
    """Return the keys of the first pairs without a row; an empty list for a stream, which can't be indexed."""
    if isinstance(source, PairStream) or total is None:
        return []
    positions = remaining_positions(source, total, done_keys(run.table))
    return [source.key(index) for index in islice(positions, _MAX_MISSING)]
