"""Small shards on disk, and how the tests read them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.shards.streams import Shards, open_shards

NAMES = ("caption", "image")


Member = tuple[str, bytes]


def open_(path: Path | str, names: tuple[str, str] = NAMES) -> Shards:
    return open_shards(str(path), "train", names)


def read(shards: Shards) -> list[dict[str, Any] | str]:
    """All rows, with messages in place of errors; reads twice, and checks that both readings agree."""
    first, second = (
        [str(row) if isinstance(row, PairError) else row for k in range(len(shards.names)) for row in shards.rows(k)]
        for _ in range(2)
    )
    assert first == second
    return first


def captions(shards: Shards) -> list[Any]:
    return [row["caption"] if isinstance(row, dict) else row for row in read(shards)]


def pack(members: list[Member]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size = len(content)
            archive.addfile(header, io.BytesIO(content))
    return buffer.getvalue()


def sample(key: str, **parts: bytes) -> list[Member]:
    return [(f"{key}.{extension}", content) for extension, content in parts.items()]


def pairs(start: int, stop: int) -> list[Member]:
    return [part for k in range(start, stop) for part in sample(f"{k:03d}", jpg=b"%d" % k, txt=b"caption %d" % k)]


def write_tar(path: Path, members: list[Member]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pack(members))
    return path


def write_parquet(path: Path, start: int, stop: int, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": [{"bytes": b"%d" % k, "path": None} for k in range(start, stop)],
        "caption": [f"caption {k}" for k in range(start, stop)],
    }
    pq.write_table(pa.table(columns), path, **options)
    return path


def jpeg(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


def write_data_set(folder: Path, shards: int = 3) -> Path:
    """A data set folder in the layout of the hub."""
    (folder / "data").mkdir(parents=True)
    features = datasets.Features({"image": datasets.Image(), "caption": datasets.Value("string")})
    for shard in range(shards):
        rows = range(shard * 4, shard * 4 + 4)
        cells = {
            "image": [{"bytes": jpeg(k), "path": None} for k in rows],
            "caption": [f"caption {k}" for k in rows],
        }
        file = folder / "data" / f"train-{shard:05d}-of-{shards:05d}.parquet"
        datasets.Dataset.from_dict(cells, features=features).to_parquet(str(file))
    return folder
