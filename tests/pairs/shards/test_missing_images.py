"""Member names with dots follow WebDataset's rule, and a shard without images is one message that names the cause."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.shards import missing_images
from m2ib_lightning.pairs.shards.hub_images import with_image_bytes
from tests.pairs.shards.shards import Member, open_, pairs, read, write_parquet, write_tar


@pytest.mark.parametrize(
    ("names", "key", "members"),
    [
        (["v1.0/a.b/7.jpg", "v1.0/a.b/7.txt"], "v1.0/a.b/7", ["jpg", "txt"]),
        (["7.jpg", "7.mask.png", "7.txt"], "7", ["jpg", "mask.png", "txt"]),
        (["./7.seg.0.png", "./7.PNG", "./7.txt"], "./7", ["seg.0.png", "png", "txt"]),
    ],
)
def test_a_key_ends_at_the_first_dot_of_the_base_name(
    names: list[str], key: str, members: list[str], tmp_path: Path
) -> None:
    (row,) = read(open_(write_tar(tmp_path / "0.tar", [(name, b"%d" % k) for k, name in enumerate(names)])))
    assert isinstance(row, dict)
    assert list(row) == ["__key__", *members, "caption", "image"]
    assert row["__key__"] == key
    plain = next(k for k, name in enumerate(members) if name in ("jpg", "png"))
    assert row["image"] == b"%d" % plain


def dotted(start: int, stop: int, middle: str = "") -> list[Member]:
    """Samples whose images have names with two dots."""
    return [
        part
        for k in range(start, stop)
        for part in [(f"{k:03d}{middle}.large.jpg", b"%d" % k), (f"{k:03d}.txt", b"caption %d" % k)]
    ]


def test_a_source_without_plain_images_is_refused_with_the_cause(tmp_path: Path) -> None:
    numbered = [(f"img.{k:03d}.{ending}", b"x") for k in range(50) for ending in ("jpg", "txt")]
    for members, name in ((numbered, "000.jpg"), (dotted(0, 40), "large.jpg"), (dotted(0, 3, ".v2"), "v2.large.jpg")):
        with pytest.raises(M2IBError, match="the first dot of the file's name") as raised:
            open_(write_tar(tmp_path / "0.tar", members))
        assert f"data.image_column={name!r} if every sample has that member" in str(raised.value)
    (row, *_) = read(open_(write_tar(tmp_path / "0.tar", dotted(0, 2)), ("caption", "large.jpg")))
    assert isinstance(row, dict)
    assert row["large.jpg"] == b"0"


def test_a_later_shard_without_images_is_one_row_that_names_the_cause(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", pairs(0, 2))
    write_tar(tmp_path / "1.tar", dotted(2, 90))
    write_tar(tmp_path / "2.tar", [part for part in pairs(90, 92) if part[0].endswith("txt")])
    write_tar(tmp_path / "3.tar", pairs(92, 93))
    rows = read(open_(tmp_path))
    assert [isinstance(row, dict) for row in rows] == [True, True, False, False, True]
    assert rows[2] == (
        "shard 1.tar has no images: none of 88 rows has a member for data.image_column='image'; the first, '002', "
        "holds large.jpg: a sample's key ends at the first dot of the file's name (the rule of WebDataset), so "
        "'002.large.jpg' is the member 'large.jpg' of sample '002'. Give the pictures names with a single dot, or "
        "data.image_column='large.jpg' if every sample has that member"
    )
    assert "none of 2 rows has a member for data.image_column='image'; the first, '090', holds no picture" in rows[3]


def test_a_parquet_shard_without_images_is_one_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "0.parquet", 0, 2)
    captions = [f"caption {k}" for k in range(200)]
    pq.write_table(pa.table({"caption": captions, "picture": [b"x"] * 200}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"caption": captions, "image": pa.nulls(200, pa.binary())}), tmp_path / "2.parquet")
    rows = read(open_(tmp_path))
    assert rows[2:] == [
        "shard 1.parquet has no images: it has no column 'image' (data.image_column); it has caption, picture",
        "shard 2.parquet has no images: the column 'image' (data.image_column) is empty in 200 rows",
    ]


@pytest.mark.parametrize("limit", [2, 20_000])
def test_no_row_is_lost_if_an_image_comes_late(tmp_path: Path, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missing_images, "_MAX_HELD_ROWS", limit)
    without = [part for part in pairs(2, 9) if part[0].endswith("txt")]
    write_tar(tmp_path / "0.tar", pairs(0, 2))
    write_tar(tmp_path / "1.tar", [*without, *pairs(9, 11)])
    rows = read(open_(tmp_path))
    assert [row["caption"] for row in rows if isinstance(row, dict)] == [f"caption {k}" for k in range(11)]
    content = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(content[: 512 * 9])  # ends within the rows without images
    *rows, last = read(open_(tmp_path))
    assert [row["caption"] for row in rows if isinstance(row, dict)] == [f"caption {k}" for k in range(6)]
    assert "the rest of shard 1.tar, from row 4 on, could not be read" in str(last)


@pytest.mark.parametrize(
    "path",
    ["http://169.254.169.254/latest", "file:///dev/zero", "zip://a.png::https://example.org/a.zip", "ftp://host/a.png"],
)
def test_an_image_of_the_web_in_a_hub_data_set_is_not_fetched(path: str) -> None:
    row = {"image": {"bytes": None, "path": path}}
    assert with_image_bytes(row, ["image"]) == {"image": {"bytes": None, "path": path}}
