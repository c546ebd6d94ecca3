"""Data sets that ``datasets`` streams, and shards of every kind in worker processes."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.shards.streams import Shards, open_shards
from tests.pairs.shards.shards import (
    NAMES,
    captions,
    jpeg,
    open_,
    pairs,
    read,
    write_data_set,
    write_parquet,
    write_tar,
)


def test_a_data_set(tmp_path: Path) -> None:
    shards = open_(write_data_set(tmp_path / "rings"))
    assert shards.names == [f"rings/train-{k:05d}-of-00003" for k in range(3)]
    assert (shards.columns, shards.folder) == (["image", "caption"], tmp_path / "rings")
    for k in range(3):
        assert [row["caption"] for row in shards.rows(k) if isinstance(row, dict)] == [
            f"caption {n}" for n in range(k * 4, k * 4 + 4)
        ]
    assert [row["image"]["bytes"] for row in read(shards) if isinstance(row, dict)] == [jpeg(k) for k in range(12)]
    with pytest.raises(M2IBError, match=r"rings' has no .* files, and as a data set it could not be read: .*train"):
        open_shards(str(tmp_path / "rings"), "dev", NAMES)


def test_opening_a_data_set_reads_none_of_its_later_shards(tmp_path: Path) -> None:
    write_data_set(tmp_path / "rings")
    broken = tmp_path / "rings" / "data" / "train-00002-of-00003.parquet"
    broken.write_bytes(broken.read_bytes()[:100])
    rows = captions(open_(tmp_path / "rings"))
    assert rows[:8] == [f"caption {k}" for k in range(8)]
    (error,) = rows[8:]
    assert error.startswith("shard rings/train-00002-of-00003 could not be read: ")


def test_a_data_set_that_is_broken_in_the_middle(tmp_path: Path) -> None:
    """``datasets`` also has to read a CSV before it knows the columns."""
    lines = [f"a.png,{k}" for k in range(30_000)]
    lines[25_000] = "a.png,25000,too,many"
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "0.csv").write_text("\n".join(["image,caption", *lines]))
    shards = open_(tmp_path / "lines")
    assert shards.columns == ["image", "caption"]
    *rows, last = captions(shards)
    assert rows == list(range(20_000))  # `datasets` reads 10,000 at a time
    assert last.startswith("the rest of shard lines/train-00000-of-00001, from row 20000 on, could not be read: ")


def test_images_in_a_zip_are_fetched(tmp_path: Path) -> None:
    (tmp_path / "rings").mkdir()
    with zipfile.ZipFile(tmp_path / "rings" / "train.zip", "w") as archive:
        archive.writestr("metadata.csv", "file_name,caption\n0.jpg,zero\n1.jpg,one\n")
        for k in range(2):
            archive.writestr(f"{k}.jpg", jpeg(k))
    shards = open_(tmp_path / "rings")
    rows = [row for row in read(shards) if isinstance(row, dict)]
    assert [(row["image"]["bytes"], row["caption"]) for row in rows] == [(jpeg(0), "zero"), (jpeg(1), "one")]


def test_a_hub_data_set_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(M2IBError, match=r"as a hub data set it could not be read(.|\n)*download it elsewhere"):
        open_("nobody/nothing")


class Everything(torch.utils.data.IterableDataset[Any]):
    """All rows, in each worker."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        for k in range(len(self.shards.names)):
            for row in self.shards.rows(k):
                yield worker.id, row["caption"] if isinstance(row, dict) else str(row)


def test_every_worker_can_read_all_rows(tmp_path: Path) -> None:
    """``datasets`` would split the shards over the workers once more."""
    loader = torch.utils.data.DataLoader(Everything(open_(write_data_set(tmp_path / "rings"))), None, num_workers=2)
    found = list(loader)
    for worker in range(2):
        assert [caption for k, caption in found if k == worker] == [f"caption {k}" for k in range(12)]


@pytest.mark.parametrize("write", ["tar", "parquet", "datasets"])
def test_shards_can_be_pickled(tmp_path: Path, write: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if write == "tar":
        write_tar(Path("shards/0.tar"), pairs(0, 3))
    elif write == "parquet":
        write_parquet(Path("shards/0.parquet"), 0, 3)
    else:
        write_data_set(Path("shards"))
    shards = open_("shards")
    monkeypatch.chdir("/")
    assert read(pickle.loads(pickle.dumps(shards))) == read(shards)
    assert "caption 2" in captions(shards)
