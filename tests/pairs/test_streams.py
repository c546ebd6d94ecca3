"""Shards are read forwards, the same twice, with flat memory; what can't be read costs a row and says so."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.shards import streams, tar
from m2ib_lightning.pairs.shards.streams import Shards, open_shards

NAMES = ("caption", "image")
Member = tuple[str, bytes]


def open_(path: Path | str, names: tuple[str, str] = NAMES) -> Shards:
    return open_shards(str(path), "train", names)


def read(shards: Shards) -> list[dict[str, Any] | str]:
    """All rows, with the messages of errors in their place; the same when it is asked again."""
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
    """A folder as the hub has it."""
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


# Tar


def test_tar_samples(tmp_path: Path) -> None:
    members = sample("a/b/0", JPG=b"x", txt=b"a ring\n", json=b'{"size": 3, "txt": "no", "tags": ["t"]}', cls=b"7")
    shards = open_(write_tar(tmp_path / "0.tar", members))
    assert shards.names == ["0.tar"]
    assert shards.folder == tmp_path
    assert shards.columns == ["__key__", "jpg", "txt", "json", "cls", "size", "tags", "caption", "image"]
    (row,) = read(shards)
    assert isinstance(row, dict)
    assert list(row) == shards.columns
    assert row["__key__"] == "a/b/0"
    assert (row["jpg"], row["image"], row["cls"]) == (b"x", b"x", b"7")
    assert (row["txt"], row["caption"]) == ("a ring", "a ring")
    assert (row["size"], row["tags"]) == (3, ["t"])


@pytest.mark.parametrize("name", ["0.tar", "0.tar.gz", "0.tgz", "0.TAR"])
def test_gzip_is_told_by_its_content(tmp_path: Path, name: str) -> None:
    content = pack(pairs(0, 3))
    for packed in (content, gzip.compress(content), gzip.compress(content[:700]) + gzip.compress(content[700:])):
        (tmp_path / name).write_bytes(packed)
        assert captions(open_(tmp_path / name)) == ["caption 0", "caption 1", "caption 2"]


def test_what_is_no_sample_is_skipped(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        for kind, name in [
            (tarfile.DIRTYPE, "deep.jpg"),
            (tarfile.SYMTYPE, "0.png"),
            (tarfile.LNKTYPE, "0.webp"),
            (tarfile.CHRTYPE, "0.gif"),
            (tarfile.FIFOTYPE, "0.bmp"),
        ]:
            header = tarfile.TarInfo(name)
            header.type, header.linkname = kind, "/etc/passwd"
            archive.addfile(header)
        for name in (".hidden.jpg", "deep/._0.jpg", "README", "deep.er/LICENSE", "deep.er/0.jpg", "deep.er/0.txt"):
            header = tarfile.TarInfo(name)
            header.size = 1
            archive.addfile(header, io.BytesIO(b"x"))
    assert read(open_(tmp_path / "0.tar")) == [
        {"__key__": "deep.er/0", "jpg": b"x", "txt": "x", "caption": "x", "image": b"x"}
    ]


def test_nothing_is_written_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    names = ["../../etc/passwd", "/etc/passwd", "../up.txt", f"{tmp_path}/absolute.txt", "caption.txt"]
    write_tar(tmp_path / "0.tar", [(name, b"x") for name in names])
    before = sorted(tmp_path.rglob("*"))
    rows = read(open_(tmp_path / "0.tar"))
    assert [row["__key__"] for row in rows if isinstance(row, dict)] == ["../up", f"{tmp_path}/absolute", "caption"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_sample_is_what_comes_together_and_may_lack_a_part(tmp_path: Path) -> None:
    members = [
        *sample("a", jpg=b"1", txt=b"one"),
        *sample("b", jpg=b"2"),
        *sample("a", txt=b"three"),  # the same key, later
        *sample("deep/a", png=b"4", txt=b"four"),
        *sample("c", jpg=b"5", json=b"{}"),
    ]
    shards = open_(write_tar(tmp_path / "0.tar", members))
    rows = [row for row in read(shards) if isinstance(row, dict)]
    assert [(row["__key__"], row["image"], row["caption"]) for row in rows] == [
        ("a", b"1", "one"),
        ("b", b"2", None),
        ("a", None, "three"),
        ("deep/a", b"4", "four"),
        ("c", b"5", None),
    ]


def test_two_members_of_one_name_are_not_paired_at_random(tmp_path: Path) -> None:
    members = [*pairs(0, 1), *sample("a", jpg=b"1", txt=b"one"), *sample("a", jpg=b"2", txt=b"two"), *pairs(1, 2)]
    assert captions(open_(write_tar(tmp_path / "0.tar", members))) == [
        "caption 0",
        "two members of sample 'a' end in .jpg: give each sample a name of its own",
        "caption 1",
    ]


def test_broken_texts_cost_their_sample(tmp_path: Path) -> None:
    members = [
        *sample("a", jpg=b"1", txt="Größe".encode("latin-1")),
        *sample("b", jpg=b"2", txt=b"\xef\xbb\xbfb", json=b'{"a": '),
        *sample("c", jpg=b"3", txt=b"c", json=b"[" * 200_000),
        *sample("d", jpg=b"4", txt=b"d", json=b"[1, NaN]"),
    ]
    rows = captions(open_(write_tar(tmp_path / "0.tar", members)))
    assert rows[0] == "a.txt is not UTF-8 (byte 0xf6): save it as UTF-8"
    assert rows[1] == "b.json is not JSON: Expecting value: line 1 column 7 (char 6)"
    assert rows[2].startswith("c.json is not JSON: maximum recursion depth")
    assert rows[3] == "d"


def test_a_sample_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "LIMIT", 2**20)
    members = [*pairs(0, 1), *sample("a", jpg=bytes(2**20), txt=b"a"), *pairs(1, 2)]
    assert captions(open_(write_tar(tmp_path / "0.tar", members))) == [
        "caption 0",
        "sample 'a' has more than 1 MiB with 'a.jpg', and was not read; the names of samples must differ before their "
        "first dot",
        "caption 1",
    ]
    one_key = [(f"img.{k:05d}.jpg", bytes(100)) for k in range(3000)]
    (row,) = captions(open_(write_tar(tmp_path / "1.tar", [*pairs(0, 1), *one_key])))[1:]
    assert row.startswith("sample 'img' has more than 1 MiB with 'img.01")


def test_aliases_mean_the_same_in_all_rows(tmp_path: Path) -> None:
    members = [
        ("a.mask.png", b"mask"),  # before a.png
        *sample("a", png=b"1", text=b"one", json=b'{"image": "elsewhere.jpg"}'),
        *sample("b", json=b'{"caption": "from json"}', txt=b"two", webp=b"2"),
        ("c.mask.png", b"mask"),
        ("c.caption", b"three"),
    ]
    path = write_tar(tmp_path / "0.tar", members)
    rows = [row for row in read(open_(path)) if isinstance(row, dict)]
    assert [row["image"] for row in rows] == [b"1", b"2", None]  # the member, never its mask
    assert [row["caption"] for row in rows] == [None, "from json", "three"]  # `caption` is there, so it is no alias
    rows = [row for row in read(open_(path, ("words", "mask.png"))) if isinstance(row, dict)]
    assert [row["words"] for row in rows] == ["one", "two", "three"]
    assert [row["mask.png"] for row in rows] == [b"mask", None, b"mask"]


def test_an_alias_of_nothing_is_no_column(tmp_path: Path) -> None:
    assert open_(write_tar(tmp_path / "0.tar", sample("a", npy=b"1", txt=b"a"))).columns == [
        "__key__",
        "npy",
        "txt",
        "caption",
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_tar_that_is_cut_off(tmp_path: Path, zipped: bool) -> None:
    rng = random.Random(0)
    members = [m for k in range(40) for m in sample(f"{k:03d}", jpg=rng.randbytes(rng.randrange(3000)), txt=b"%d" % k)]
    content = pack(members)
    whole = gzip.compress(content) if zipped else content
    path = tmp_path / "0.tar"
    path.write_bytes(whole)
    good = read(open_(path))
    shards = open_(path)
    end = len(whole) if zipped else len(content.rstrip(b"\0")) // 512 * 512 + 512
    lengths = set()
    for cut in [rng.randrange(end) for _ in range(20)]:
        path.write_bytes(whole[:cut])
        *rows, last = read(shards)
        assert rows == good[: len(rows)]
        where = f"the rest of shard 0.tar, from row {len(rows)} on," if rows else "shard 0.tar"
        assert str(last).startswith(f"{where} could not be read: ")
        lengths.add(len(rows))
    assert len(lengths) > 5


def test_a_tar_that_is_cut_between_members_leaves_no_half_sample(tmp_path: Path) -> None:
    content = pack(pairs(0, 3))  # a block of header and one of content for each member
    shards = open_(write_tar(tmp_path / "0.tar", pairs(0, 3)))
    for blocks, whole in [(10, 2), (11, 2), (12, 2), (13, 3)]:
        (tmp_path / "0.tar").write_bytes(content[: 512 * blocks])
        rows = captions(shards)
        assert rows[:whole] == ["caption 0", "caption 1", "caption 2"][:whole]
        assert rows[whole:] == (
            []
            if blocks == 13
            else [
                "the rest of shard 0.tar, from row 2 on, could not be read: "
                + (
                    "unexpected end of data"
                    if blocks == 11
                    else "it stops without the zeros that end a tar: is it cut off?"
                )
            ]
        )


def test_a_broken_header_is_not_the_end(tmp_path: Path) -> None:
    content = bytearray(pack(pairs(0, 4)))
    content[512 * 8] ^= 1  # the name in a header: the checksum is wrong, and `tarfile` would say nothing
    shards = open_(write_tar(tmp_path / "0.tar", pairs(0, 4)))
    (tmp_path / "0.tar").write_bytes(content)
    assert captions(shards) == [
        "caption 0",
        "the rest of shard 0.tar, from row 1 on, could not be read: a member's header is broken (bad checksum)",
    ]


def test_tars_one_behind_the_other(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(pack(pairs(0, 2)) + pack(pairs(2, 3)))
    assert captions(open_(tmp_path / "0.tar")) == ["caption 0", "caption 1", "caption 2"]
    (tmp_path / "0.tar").write_bytes(pack(pairs(0, 2))[:-100])  # some of the zeros that end it are there
    assert captions(open_(tmp_path / "0.tar")) == ["caption 0", "caption 1"]
    (tmp_path / "0.tar").write_bytes(pack(pairs(0, 2)) + b"something else" * 100)
    rows = captions(open_(tmp_path / "0.tar"))
    assert rows[0] == "caption 0"
    assert "a member's header is broken" in rows[-1]


def test_gzip_with_a_wrong_checksum(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(pack(pairs(0, 4))))
    packed[-6] ^= 1
    (tmp_path / "0.tgz").write_bytes(packed)
    assert captions(open_(tmp_path / "0.tgz"))[-1].startswith(
        "the rest of shard 0.tgz, from row 3 on, could not be read: CRC check failed"
    )


def test_names_that_are_not_utf8_stay_apart(tmp_path: Path) -> None:
    content = pack([("?.txt", b"one"), ("!.txt", b"two")])
    for sign, byte in ((b"?", b"\xf6"), (b"!", b"\xfc")):
        start = content.index(sign + b".txt")
        header = bytearray(content[start : start + 512])
        header[0:1] = byte
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        content = content[:start] + bytes(header) + content[start + 512 :]
    (tmp_path / "0.tar").write_bytes(content)
    rows = read(open_(tmp_path / "0.tar"))
    assert [row["__key__"] for row in rows if isinstance(row, dict)] == ["\\xf6", "\\xfc"]


# Parquet


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


def test_parquet_of_other_things(tmp_path: Path) -> None:
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
    looked: list[str] = []
    look = streams._parquet_columns
    monkeypatch.setattr(streams, "_parquet_columns", lambda file: looked.append(Path(file).name) or look(file))  # type: ignore[func-returns-value]
    open_(tmp_path)
    assert looked == ["0.parquet", "1.parquet"]


# datasets


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


def test_a_data_set_that_breaks_in_the_middle(tmp_path: Path) -> None:
    """And whose columns ``datasets`` does not know before it reads."""
    lines = [f"a.png,{k}" for k in range(30_000)]
    lines[25_000] = "a.png,25000,too,many"
    (tmp_path / "lines").mkdir()
    (tmp_path / "lines" / "0.csv").write_text("\n".join(["image,caption", *lines]))
    shards = open_(tmp_path / "lines")
    assert shards.columns == ["image", "caption"]
    *rows, last = captions(shards)
    assert rows == list(range(20_000))  # it reads 10,000 at a time
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
    """All rows in each worker."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __iter__(self) -> Iterator[Any]:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        for k in range(len(self.shards.names)):
            for row in self.shards.rows(k):
                yield worker.id, row["caption"] if isinstance(row, dict) else str(row)


def test_workers_are_left_to_the_caller(tmp_path: Path) -> None:
    """``datasets`` would split the shards over the workers once more."""
    loader = torch.utils.data.DataLoader(Everything(open_(write_data_set(tmp_path / "rings"))), None, num_workers=2)
    found = list(loader)
    for worker in range(2):
        assert [caption for k, caption in found if k == worker] == [f"caption {k}" for k in range(12)]


# All of them


@pytest.mark.parametrize("write", ["tar", "parquet", "datasets"])
def test_shards_can_be_sent_to_a_worker(tmp_path: Path, write: str, monkeypatch: pytest.MonkeyPatch) -> None:
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


def write_shards(folder: Path) -> list[str]:
    for k in range(12):
        write_tar(folder / f"{k:05d}.tar", pairs(k * 2, k * 2 + 2))
    (folder / "00000_stats.json").write_text("{}")
    write_tar(folder / "._00000.tar", pairs(0, 1))
    return [f"caption {k}" for k in range(24)]


@pytest.mark.parametrize(
    ("pattern", "start", "stop"),
    [
        ("", 0, 12),
        ("/*", 0, 12),
        ("/*.tar", 0, 12),
        ("/0000[2-4].tar", 2, 5),
        ("/{00000..00011}.tar", 0, 12),
        ("/{00011..00009}.tar", 9, 12),
        ("/{00002,00001,00001}.tar", 1, 3),
        ("/0000{0..1}.{tar,tar}", 0, 2),
        ("/{0000*,00010}.tar", 0, 11),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_what_a_path_stands_for(tmp_path: Path, scheme: str, pattern: str, start: int, stop: int) -> None:
    if scheme and "[" in pattern:
        pytest.skip("globs of URLs need a *")
    expected = write_shards(tmp_path / "shards")
    shards = open_(f"{scheme}{tmp_path}/shards{pattern}")
    assert shards.names == [f"{k:05d}.tar" for k in range(start, stop)]
    assert captions(shards) == expected[start * 2 : stop * 2]
    assert shards.folder == (Path() if scheme else tmp_path / "shards")


def test_urls_of_parquet_files(tmp_path: Path) -> None:
    for k in range(2):
        write_parquet(tmp_path / f"{k}.parquet", k * 100, k * 100 + 100, row_group_size=30)
    assert captions(open_(f"file://{tmp_path}/*.parquet")) == [f"caption {k}" for k in range(200)]
    rows = captions(open_(f"file://{tmp_path}/{{0..2}}.parquet"))
    assert rows[:-1] == [f"caption {k}" for k in range(200)]
    assert rows[-1] == "shard 2.parquet could not be read: it does not exist"


def test_names_in_several_folders(tmp_path: Path) -> None:
    for k, folder in enumerate(("train", "dev")):
        write_tar(tmp_path / "all" / folder / "0.tar", pairs(k, k + 1))
    shards = open_(tmp_path / "**" / "*.tar")
    assert shards.names == ["dev/0.tar", "train/0.tar"]
    assert shards.folder == tmp_path / "all"
    assert captions(shards) == ["caption 1", "caption 0"]


def test_relative_globs_and_odd_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a [x] {1..2}"
    write_tar(folder / "0.tar", pairs(0, 1))
    assert captions(open_(folder)) == captions(open_(folder / "0.tar")) == ["caption 0"]
    monkeypatch.chdir(folder)
    assert captions(open_("*.tar")) == captions(open_("{0..0}.tar")) == captions(open_(".")) == ["caption 0"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("none", r"none' does not exist \(no such file or folder, and not a hub data set's name\)"),
        ("none.tar", r"none\.tar' does not exist"),
        (
            "shards/*.txt",
            r"no file of the name '.*/shards/\*\.txt': the folder has 00000\.tar to 00011\.tar \(12 files\)",
        ),
        ("shards/{00010..00019}.tar", r"no file of the name '.*00012\.tar', nor of 7 more of 10: the folder has 00000"),
        ("no/{0..9}.tar", r"no file of the name '.*no/0\.tar', nor of 9 more of 10, nor a folder '.*no'"),
        ("shards/*.json", r"shards must end in \.tar, \.tar\.gz, \.tgz or \.parquet, got '00000_stats\.json'"),
        ("shards/00000_stats.json", r"shards must end in .* got '00000_stats\.json'"),
        ("both", r"both' has \.tar and \.parquet files: give those of one kind, like 'folder/\*\.tar'"),
        ("both/*", r"has \.tar and \.parquet files"),
        ("empty.tar", r"empty\.tar' could not be read: it is empty"),
        ("empty.parquet", r"empty\.parquet' could not be read: "),
        ("zeros.tar", r"zeros\.tar' could not be read: it has no rows"),
        ("wrong.tar", r"wrong\.tar' could not be read: a member's header is broken"),
        ("wrong/*.tar", r"10 of 12 shards were tried and none could be read, the first: it is empty"),
        ("words.tar", r"words\.tar' could not be read: a\.txt is not UTF-8"),
        ("hollow", r"hollow' has no .* files, and as a data set it could not be read: "),
    ],
)
def test_what_can_not_be_opened(tmp_path: Path, pattern: str, message: str) -> None:
    write_shards(tmp_path / "shards")
    write_tar(tmp_path / "both" / "0.tar", pairs(0, 1))
    write_parquet(tmp_path / "both" / "0.parquet", 0, 1)
    write_tar(tmp_path / "zeros.tar", [])
    write_tar(tmp_path / "words.tar", sample("a", txt=b"\xff"))
    for name in ("empty.tar", "empty.parquet"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "wrong.tar").write_text("<html>not found</html>" * 100)
    (tmp_path / "hollow").mkdir()
    (tmp_path / "wrong").mkdir()
    for k in range(12):
        (tmp_path / "wrong" / f"{k}.tar").write_bytes(b"")
    with pytest.raises(M2IBError, match=message):
        open_(tmp_path / pattern)


def test_urls_that_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(M2IBError, match=r"nothing:///a/\*\.tar' could not be read: Protocol not known: nothing"):
        open_("nothing:///a/*.tar")
    with pytest.raises(M2IBError, match=r"nothing:///a\.tar' could not be read: Protocol not known: nothing"):
        open_("nothing:///a.tar")
    with pytest.raises(M2IBError, match=r"could not be read: '.*' has no \.tar, .* files"):
        open_(f"file://{tmp_path}")
    with pytest.raises(M2IBError, match="none could be read, the first: it does not exist"):
        open_(f"file://{tmp_path}/{{0..3}}.tar")


def test_shards_after_those_that_can_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(b"")
    write_tar(tmp_path / "1.tar", [])
    write_tar(tmp_path / "2.tar", sample("a", txt=b"\xff"))
    write_tar(tmp_path / "3.tar", pairs(0, 1))
    shards = open_(tmp_path)
    assert captions(shards) == [
        "shard 0.tar could not be read: it is empty",
        "a.txt is not UTF-8 (byte 0xff): save it as UTF-8",
        "caption 0",
    ]


WRITE_PARQUET = """
import sys, os, pyarrow as pa, pyarrow.parquet as pq
images = [{"bytes": os.urandom(50_000), "path": None} for _ in range(2000)]
table = pa.table({"image": images, "caption": [str(k) for k in range(2000)]})
pq.write_table(table, sys.argv[1], write_batch_size=16)  # one row group, pages of 1 MiB
"""


def write_large_parquet(folder: Path) -> Path:
    subprocess.run([sys.executable, "-c", WRITE_PARQUET, str(folder / "0.parquet")], check=True)
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
growth(sys.argv[1])  # what is imported and set up at first
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
    read_in_a_process = subprocess.run(command, check=True, capture_output=True, text=True)
    count, growth = read_in_a_process.stdout.split()
    assert int(count) == rows
    assert float(growth) < 30
