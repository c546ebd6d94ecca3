"""Parquet shards, and the memory that reading large shards takes."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.pairs.shards import streams
from tests.pairs.shards.shards import captions, open_, pairs, read, sample, write_parquet, write_tar


def break_second_row_group(file: Path) -> None:
    content = file.read_bytes()
    start = pq.ParquetFile(file).metadata.row_group(1).column(0).data_page_offset
    file.write_bytes(content[:start] + b"\xff" * 60 + content[start + 60 :])


def test_parquet_rows(tmp_path: Path) -> None:
    shards = open_(write_parquet(tmp_path / "0.parquet", 0, 300, row_group_size=70))
    assert (shards.names, shards.columns, shards.folder) == (["0.parquet"], ["image", "caption"], tmp_path)
    assert read(shards) == [
        {"image": {"bytes": b"%d" % k, "path": None}, "caption": f"caption {k}"} for k in range(300)
    ]


def test_parquet_with_lists_and_invalid_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": ["a.png"], "caption": [["one", "two"]]}), tmp_path / "0.parquet")
    assert read(open_(tmp_path / "0.parquet")) == [{"image": "a.png", "caption": ["one", "two"]}]
    broken = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"caption": broken}), tmp_path / "1.parquet")
    first, second = captions(open_(tmp_path / "1.parquet"))
    assert first == "a"
    assert second.startswith("a cell could not be read: 'utf-8' codec can't decode byte 0xff")


def test_broken_parquet(tmp_path: Path) -> None:
    for k in range(3):
        write_parquet(tmp_path / f"{k}.parquet", k * 4, k * 4 + 4, row_group_size=2)
    break_second_row_group(tmp_path / "1.parquet")
    (tmp_path / "0.parquet").write_bytes((tmp_path / "0.parquet").read_bytes()[:-30])
    rows = captions(open_(tmp_path))
    assert rows[0].startswith("shard 0.parquet could not be read: Parquet magic bytes not found")
    assert rows[1:3] == ["caption 4", "caption 5"]
    assert rows[3].startswith("the rest of shard 1.parquet, from row 2 on, could not be read: ")
    assert rows[4:] == [f"caption {k}" for k in range(8, 12)]


def test_only_one_footer_is_read_at_opening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(5):
        write_parquet(tmp_path / f"{k}.parquet", 0, 1)
    (tmp_path / "0.parquet").write_bytes(b"")
    opened: list[str] = []
    columns_of = streams._parquet_columns
    monkeypatch.setattr(streams, "_parquet_columns", lambda file: opened.append(Path(file).name) or columns_of(file))  # type: ignore[func-returns-value]
    open_(tmp_path)
    assert opened == ["0.parquet", "1.parquet"]


def write_large_parquet(folder: Path) -> Path:
    images = pa.StructArray.from_arrays(
        [pa.array([bytes(50_000)] * 2000, pa.binary()), pa.nulls(2000, pa.string())], ["bytes", "path"]
    )
    table = pa.table({"image": images, "caption": [str(k) for k in range(2000)]})
    options = {"use_dictionary": False, "compression": "none", "write_batch_size": 16}
    pq.write_table(table, folder / "0.parquet", **options)  # one row group, pages of 1 MiB
    return folder / "0.parquet"


def write_large_tar(folder: Path) -> Path:
    with tarfile.open(folder / "0.tar", "w") as archive:
        for k in range(7000):
            for name, content in sample(f"{k:05d}", jpg=bytes(30_000), txt=b"%d" % k):
                header = tarfile.TarInfo(name)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
                archive.members.clear()  # type: ignore[attr-defined]
    return folder / "0.tar"


READ = """
import sys
from pathlib import Path
from m2ib_lightning.pairs.shards.streams import open_shards
def used():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20
def growth(path):
    before = most = used()
    for count, row in enumerate(open_shards(path, "train", ("caption", "image")).rows(0)):
        assert row["caption"] == str(count) or "small" in path
        most = max(most, used()) if count % 20 == 1 else most
    return count + 1, most - before
growth(sys.argv[1])  # imports and buffers of the first reading
print(*growth(sys.argv[2]))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
@pytest.mark.parametrize(
    ("write", "size", "rows"),
    [pytest.param(write_large_tar, 200e6, 7000, marks=pytest.mark.slow), (write_large_parquet, 100e6, 2000)],
)
def test_memory_is_flat(tmp_path: Path, write: Callable[[Path], Path], size: float, rows: int) -> None:
    path = write(tmp_path)
    assert path.stat().st_size > size
    (tmp_path / "small").mkdir()
    small = write_tar(tmp_path / "small" / "0.tar", pairs(0, 100))
    if path.suffix == ".parquet":
        small = write_parquet(tmp_path / "small" / "0.parquet", 0, 100)
    command = [sys.executable, "-c", READ, str(small), str(path)]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    count, growth = process.stdout.split()
    assert int(count) == rows
    assert float(growth) < 30
