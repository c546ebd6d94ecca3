"""Streams find columns as tables do: capitals and spaces around a name do not count."""

from __future__ import annotations

import io
import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.datamodules.captions import CaptionStream
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.shards.streams import open_shards
from m2ib_lightning.pairs.tables.cells import Columns


def stream(path: Path, columns: Columns) -> list[RawPair]:
    shards = open_shards(str(path), "train", (columns.text, columns.image))
    source = CaptionStream(shards, path.name, columns, None)
    return [pair for shard in range(len(source.names)) for row in source.rows(shard) for pair in row]


def write_parquet(path: Path, cells: dict[str, list[Any]]) -> Path:
    pq.write_table(pa.table(cells), path)
    return path


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return path


COLUMNS = Columns(image="image path", text="caption", id="uid", boxes="box")


def test_parquet_shards_with_other_capitals_and_spaces(tmp_path: Path) -> None:
    cells: dict[str, list[Any]] = {"Image Path": ["a.png"], " Caption ": ["a dog"], "UID": [7], "Box": [[0, 0, 9, 9]]}
    (pair,) = stream(write_parquet(tmp_path / "a.parquet", cells), COLUMNS)
    assert (pair.uri, pair.image, pair.caption, pair.id) == ("a.png", tmp_path / "a.png", "a dog", "7")
    assert pair.truth is not None
    assert pair.truth.boxes == [[0, 0, 9, 9]]


def test_the_exact_name_comes_first_and_two_others_are_refused(tmp_path: Path) -> None:
    cells = {"image": ["a.png"], "Caption": ["other"], "caption": ["exact"]}
    (pair,) = stream(write_parquet(tmp_path / "a.parquet", cells), Columns())
    assert pair.caption == "exact"
    path = write_parquet(tmp_path / "b.parquet", {"image": ["a.png"], "Caption": ["x"], "CAPTION": ["y"]})
    with pytest.raises(M2IBError, match=re.escape("more than one column 'caption', up to spaces and capitals")):
        stream(path, Columns())


def test_a_field_of_a_sample_comes_before_its_text_member(tmp_path: Path) -> None:
    fields = json.dumps({"Caption": "of the field", "Box": [1, 2, 3, 4]}).encode()
    path = write_tar(tmp_path / "a.tar", {"1.png": b"png", "1.txt": b"of the member", "1.json": fields})
    (pair,) = stream(path, Columns(boxes="box"))
    assert (pair.caption, pair.image) == ("of the field", b"png")
    assert pair.truth is not None
    assert pair.truth.boxes == [[1, 2, 3, 4]]
    path = write_tar(tmp_path / "b.tar", {"1.png": b"png", "1.txt": b"of the member", "1.json": b"{}"})
    (pair,) = stream(path, Columns())
    assert pair.caption == "of the member"


def test_a_folder_that_datasets_streams(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text('{"Image": "a.png", " caption": "a dog"}\n')
    (pair,) = stream(tmp_path / "data", Columns())
    assert (pair.uri, pair.caption) == ("a.png", "a dog")
