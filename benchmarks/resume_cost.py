"""What it costs to find out what a long run has left to do: rank 0 does it once, at each start.

    python benchmarks/resume_cost.py                # a million rows, on 64 ranks

The parts are written as a run of that size would have named and cut them, with keys and nothing else in the rows.
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


class Table:
    """Keys as those of a table."""

    def key(self, index: int) -> str:
        """Of a row."""
        return f"pairs.csv:{index}"


def write(run: RunDirectory, rows: int, ranks: int) -> None:
    """The parts."""
    run.table.mkdir()
    for number, first in enumerate(range(0, rows, ROWS)):
        keys = [Table().key(index) for index in range(first, min(first + ROWS, rows))]
        columns = {name: keys if name in ("key", "id") else [None] * len(keys) for name in SCHEMA.names}
        part = run.table / part_name(1, number % ranks, number // ranks)
        write_part(pa.table(columns, schema=SCHEMA), Counts(done=len(keys)), part)


def timed(what: str, work: Callable[[], Any]) -> Any:
    """Say how long it took, and the most memory so far."""
    start = time.perf_counter()
    result = work()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{what}: {time.perf_counter() - start:.2f} s, most memory so far {peak:.0f} MiB", flush=True)
    return result


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = RunDirectory(Path(temporary))
        timed("writing the parts", lambda: write(run, given.rows, given.ranks))
        timed("a stream's rank reads what is done", lambda: DoneRows(run.table, ["pairs.csv"]))
        keys = timed("a table: reading the keys", lambda: done_keys(run.table))
        source: Any = Table()
        timed("a table: finding what is left", lambda: list(remaining_positions(source, given.rows + 1, keys)))
        timed("the summary", lambda: summarise(run, Launch(run.launches / "0001", given.ranks, given.rows)))


if __name__ == "__main__":
    main()
