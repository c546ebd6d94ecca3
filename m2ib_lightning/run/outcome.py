"""The last lines that the command prints: the outcome of the run and where its files are."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from m2ib_lightning.errors import escaped
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.summary import Summary


def print_outcome(run: RunDirectory, summary: Summary, stopped: bool, curves: Sequence[str] = ()) -> None:
    """Print the counts and the paths of a run; failures and missing pairs go to stderr.

    Args:
        run: the run directory.
        summary: the run's summary.
        stopped: whether a signal ended the run.
        curves: for each logger, where its curves are.
    """
    counts = summary.counts
    if summary.skipped or (summary.skipped is None and (summary.lost or stopped)):
        _print_missing(summary, stopped)
    print(f"\n{count_of(counts.done, 'pair')} explained in {summary.seconds:.1f} s, {counts.failed} failed.")
    if counts.truncated:
        print(f"{count_of(counts.truncated, 'caption')} longer than the model reads: only the beginning was explained.")
    if counts.unknown:
        print(
            f"{count_of(counts.unknown, 'caption')} with words that the model's vocabulary does not know, "
            f"{counts.wholly_unknown} with no other words."
        )
    if counts.unread:
        print(
            f"{count_of(counts.unread, 'caption')} with words behind the token that the model pools at: it never reads "
            "them, so they have no saliency."
        )
    if counts.animated:
        print(f"{count_of(counts.animated, 'image')} with more than one frame: the first was explained.")
    if counts.marked:
        advice = "; data.fit=pad shows the whole picture" if counts.partly_cut + counts.wholly_cut else ""
        print(
            f"{count_of(counts.marked, 'pair')} with boxes or masks: the crop cuts away a part of them in "
            f"{counts.partly_cut}, and all of them in {counts.wholly_cut}{advice}."
        )
    for row in summary.failures:
        print(escaped(f"  {row['key']}: {row['error']}"), file=sys.stderr)
    if counts.failed > len(summary.failures):
        print(f"  ... and {counts.failed - len(summary.failures)} more", file=sys.stderr)
    if counts.failed:
        print(f"The rows with an error are in {run.table}.", file=sys.stderr)
    print(f"pictures     {run.heatmaps}\npage         {run.report}\ntable        {run.table}")
    for place in curves:
        print(f"curves       {place}")
    sys.stdout.flush()


def _print_missing(summary: Summary, stopped: bool) -> None:
    ranks = f"{'rank' if len(summary.lost) == 1 else 'ranks'} {', '.join(map(str, summary.lost))}"
    reason = f"{ranks} died: " if summary.lost and not stopped else "stopped: "
    first_keys = ", ".join(map(escaped, summary.missing[:3])) + (", ..." if len(summary.missing) > 3 else "")
    pairs = "some pairs" if summary.skipped is None else f"{summary.skipped} of {summary.total} pairs"
    print(
        f"\n{reason}{pairs} were not reached{f' ({first_keys})' if first_keys else ''}. Run the same command with "
        "resume=true and this output_dir to do them.",
        file=sys.stderr,
    )


def count_of(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular or the plural.

    >>> count_of(1, "pair"), count_of(2, "pair")
    ('1 pair', '2 pairs')
    """
    return f"{number} {noun}{'' if number == 1 else 's'}"
