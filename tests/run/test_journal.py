"""Journals and parts: no finished batch is lost and no row is written twice, wherever the process is killed."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.files import atomic_write, atomic_write_text
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.run.counts import Counts
from m2ib_lightning.run.journal import Journal, journal_of, journals, read_journal, recover
from m2ib_lightning.run.parts import read_counts
from m2ib_lightning.run.table import tables


def failed_rows(first: int, count: int) -> list[Attribution]:
    """Results of pairs that failed, with keys from ``t:<first>``."""
    return [
        Attribution(Pair(key=f"t:{k}", id="x", image="", caption="c"), error="e") for k in range(first, first + count)
    ]


def journal_with(part: Path, batches: int) -> Journal:
    """A journal with some batches of three rows each."""
    journal = Journal(part)
    for batch in range(batches):
        results = failed_rows(3 * batch, 3)
        journal.append([result.to_row() for result in results], Counts.of(results, seconds=0.5))
    return journal


def test_a_journal_becomes_a_part(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal = journal_with(part, 2)
    assert not part.exists()
    assert sum(table.num_rows for table in tables(tmp_path, ["key"])) == 6  # readers need not wait for the part
    journal.close()
    assert [row["key"] for row in pq.read_table(part).to_pylist()] == [f"t:{k}" for k in range(6)]
    assert read_counts(part) == Counts(failed=6, seconds=1.0)
    assert list(tmp_path.iterdir()) == [part]


def test_a_journal_cut_anywhere_keeps_its_complete_batches(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal, ends = Journal(part), []
    for batch in range(3):
        results = failed_rows(3 * batch, 3)
        journal.append([result.to_row() for result in results], Counts.of(results))
        ends.append(journal_of(part).stat().st_size)
    written = journal_of(part).read_bytes()
    cut = tmp_path / ".part-0001-00001-000000.arrows"
    seen = set()
    for size in {*range(0, len(written), 61), *(end + shift for end in ends for shift in (-1, 0, 1))}:
        cut.write_bytes(written[:size])
        table, counts = read_journal(cut)
        assert table.num_rows == 3 * sum(end <= size for end in ends)
        assert counts.failed == table.num_rows
        assert table["key"].to_pylist() == [f"t:{k}" for k in range(table.num_rows)]
        seen.add(table.num_rows)
    assert seen == {0, 3, 6, 9}


def test_a_kill_between_the_part_and_the_end_of_its_journal_gives_no_row_twice(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal_with(part, 1)
    content = journal_of(part).read_bytes()
    recover(journal_of(part))
    journal_of(part).write_bytes(content)
    assert journals(tmp_path) == []
    assert sum(table.num_rows for table in tables(tmp_path, ["key"])) == 3


def test_a_writer_whose_journal_was_recovered_too_early_loses_no_row(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal = journal_with(part, 1)
    recover(journal_of(part))
    late = failed_rows(3, 3)
    journal.append([result.to_row() for result in late], Counts.of(late))
    journal.close()
    assert [row["key"] for row in pq.read_table(part).to_pylist()] == [f"t:{k}" for k in range(6)]
    assert list(tmp_path.iterdir()) == [part]


def test_a_journal_that_can_not_be_read_back_is_kept(tmp_path: Path) -> None:
    journal = journal_with(tmp_path / "part-0001-00000-000000.parquet", 2)
    os.truncate(journal.path, journal.path.stat().st_size - 9)
    with pytest.raises(OSError, match="could be read back to row 3 of 6 only; it is kept"):
        journal.close()
    assert list(tmp_path.iterdir()) == [journal.path]


def test_no_part_is_overwritten(tmp_path: Path) -> None:
    part = tmp_path / "part-0001-00000-000000.parquet"
    journal_with(part, 1).close()
    with pytest.raises(FileExistsError, match="names of its own"):
        Journal(part)


def test_an_empty_journal_becomes_no_part(tmp_path: Path) -> None:
    Journal(tmp_path / "part-0001-00000-000000.parquet").close()
    assert list(tmp_path.iterdir()) == []


def test_an_atomic_write_that_fails_keeps_the_old_file(tmp_path: Path) -> None:
    atomic_write_text(tmp_path / "a.json", "first")
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "a.json") as file:
        file.write(b"second" if file.write(b"part of it") > 100 else bytes(1 // 0))
    assert (tmp_path / "a.json").read_text() == "first"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_journal_without_its_schema_is_read_as_no_rows(tmp_path: Path) -> None:
    """A kill right after the file was made leaves it so; the table may be of another schema than the usual."""
    (tmp_path / ".part-0001-00000-000000.arrows").touch()
    schema = pa.schema([pa.field("key", pa.string()), pa.field("scores", pa.float32())])
    assert [table.num_rows for table in tables(tmp_path, ["key", "scores"], schema)] == [0]
    Journal(tmp_path / "part-0001-00000-000001.parquet", schema)
    assert [table.num_rows for table in tables(tmp_path, ["key", "scores"], schema)] == [0]
