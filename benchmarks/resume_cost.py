"""Measures what it costs to find the pairs that a long run has not done yet: rank 0 does this once at each start.

    python benchmarks/resume_cost.py                # a million rows, on 64 ranks

The parts have the names and sizes of a real run's; their rows hold keys and nothing else.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from m2ib_lightning.run.callbacks.table_writer import part_name
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.done_rows import DoneRows, done_keys, remaining_positions
from m2ib_lightning.run.parts import SCHEMA, write_part
from m2ib_lightning.run.sharding import Launch
from m2ib_lightning.run.summary import summarise

ROWS = 2048
"""Rows of a part."""


class Table:
    """A source with the keys of a table."""

    def key(self, index: int) -> str:
        """Return the key of a row."""
        return f"pairs.csv:{index}"


def write(run: RunDirectory, rows: int, ranks: int) -> None:
    """Write the parts."""
    run.table.mkdir()
    for number, first in enumerate(range(0, rows, ROWS)):
        keys = [Table().key(index) for index in range(first, min(first + ROWS, rows))]
        columns = {name: keys if name in ("key", "id") else [None] * len(keys) for name in SCHEMA.names}
        part = run.table / part_name(1, number % ranks, number // ranks)
        write_part(pa.table(columns, schema=SCHEMA), Counts(done=len(keys)), part)


def timed(label: str, work: Callable[[], Any]) -> Any:
    """Do the work; print how long it took, and the peak of memory so far."""
    start = time.perf_counter()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{label}: {time.perf_counter() - start:.2f} s, peak of memory so far {peak:.0f} MiB", flush=True)
    return result


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDirectory(Path(temporary))
        timed("writing the parts", lambda: write(run, arguments.rows, arguments.ranks))
        timed("a stream: a rank reads what is done", lambda: DoneRows(run.table, ["pairs.csv"]))
        keys = timed("a table: reading the keys", lambda: done_keys(run.table))
        source: Any = Table()
        timed("a table: finding what is not done", lambda: list(remaining_positions(source, arguments.rows + 1, keys)))
        timed("the summary", lambda: summarise(run, Launch(run.launches / "0001", arguments.ranks, arguments.rows)))


if __name__ == "__main__":
    main()
