"""The end of a run: what is about all ranks, made from what each of them left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from m2ib_lightning.pairs.pair import PairSource, PairStream
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.done_rows import done_keys, remaining_positions
from m2ib_lightning.run.report import write_report
from m2ib_lightning.run.sharding import Launch
from m2ib_lightning.run.summary import Summary, summarise

_LISTED = 20


def merge(
    run: RunDirectory,
    launch: Launch,
    rank: int,
    source: PairSource | PairStream,
    total: int | None,
    report: Callable[[RunDirectory, Summary], None] = write_report,
    counted: Callable[[Summary], None] = lambda summary: None,
) -> Summary:
    """Write ``summary.json`` and the report, when no other rank is at work.

    Args:
        run: where.
        launch: the one that ends.
        rank: of this process.
        source: the pairs.
        total: how many of them there were to explain; None for a stream.
        report: writes it.
        counted: called when it is known how many are done: what comes after takes longer, and time may be short.
    """
    lost = [other for other, state in launch.others(rank).items() if state == "lost"]
    summary = summarise(run, launch, lost=lost)
    counted(summary)
    if summary.skipped:
        summary = replace(summary, missing=_missing(run, source, total))
    summary.save(run)
    report(run, summary)
    return summary


def _missing(run: RunDirectory, source: PairSource | PairStream, total: int | None) -> list[str]:
    """The keys of the first pairs that have no row."""
    if isinstance(source, PairStream) or total is None:
        return []
    return [source.key(index) for index in islice(remaining_positions(source, total, done_keys(run.table)), _LISTED)]
