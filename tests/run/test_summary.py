"""Counts of a run's summary."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.journal import Journal
from m2ib_lightning.run.sharding import Launch, begin_launch
from m2ib_lightning.run.summary import summarise
from tests.run.test_journal import failed_rows, journal_with


def test_rows_beyond_the_limit_do_not_hide_what_is_skipped(tmp_path: Path) -> None:
    directory, before = RunDirectory(tmp_path), failed_rows(3, 4)
    directory.table.mkdir()
    begin_launch(directory.launches, 1, 9)
    journal = Journal(directory.table / "part-0001-00000-000000.parquet")
    journal.append([result.to_row() for result in before], Counts.of(before))
    journal.close()
    launch = begin_launch(directory.launches, 1, 5)
    np.save(launch.remaining, np.arange(3))  # of the first five, two have a row
    journal_with(directory.table / "part-0002-00000-000000.parquet", 0).close()
    assert summarise(directory, launch).skipped == 3
    done = failed_rows(0, 1)
    journal = Journal(directory.table / "part-0002-00000-000000.parquet")
    journal.append([result.to_row() for result in done], Counts.of(done))
    assert summarise(directory, launch).skipped == 2
    assert summarise(directory, Launch(launch.folder.with_name("0003"), 1, None)).skipped is None
