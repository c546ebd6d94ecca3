"""Tar shards: samples, aliases, and broken or truncated files."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
from pathlib import Path

import pytest

from m2ib_lightning.pairs.shards import tar
from tests.pairs.shards.shards import captions, open_, pack, pairs, read, sample, write_tar


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
def test_gzip_is_detected_by_content(tmp_path: Path, name: str) -> None:
    content = pack(pairs(0, 3))
    for packed in (content, gzip.compress(content), gzip.compress(content[:700]) + gzip.compress(content[700:])):
        (tmp_path / name).write_bytes(packed)
        assert captions(open_(tmp_path / name)) == ["caption 0", "caption 1", "caption 2"]


def test_members_that_are_no_samples_are_skipped(tmp_path: Path) -> None:
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


def test_reading_writes_nothing_to_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    names = ["../../etc/passwd", "/etc/passwd", "../up.txt", f"{tmp_path}/absolute.txt", "caption.txt"]
    write_tar(tmp_path / "0.tar", [(name, b"x") for name in names])
    before = sorted(tmp_path.rglob("*"))
    rows = read(open_(tmp_path / "0.tar"))
    assert [row["__key__"] for row in rows if isinstance(row, dict)] == ["../up", f"{tmp_path}/absolute", "caption"]
    assert sorted(tmp_path.rglob("*")) == before


def test_consecutive_members_with_one_key_are_a_sample(tmp_path: Path) -> None:
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


def test_a_repeated_extension_in_a_sample_is_an_error(tmp_path: Path) -> None:
    members = [*pairs(0, 1), *sample("a", jpg=b"1", txt=b"one"), *sample("a", jpg=b"2", txt=b"two"), *pairs(1, 2)]
    assert captions(open_(write_tar(tmp_path / "0.tar", members))) == [
        "caption 0",
        "two members of sample 'a' end in .jpg: give each sample a name of its own",
        "caption 1",
    ]


def test_a_broken_text_costs_its_own_sample(tmp_path: Path) -> None:
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
    monkeypatch.setattr(tar, "MAX_SAMPLE_BYTES", 2**20)
    members = [*pairs(0, 1), *sample("a", jpg=bytes(2**20), txt=b"a"), *pairs(1, 2)]
    assert captions(open_(write_tar(tmp_path / "0.tar", members))) == [
        "caption 0",
        "sample 'a' has more than 1 MiB with 'a.jpg', and was not read; the names of samples must differ before their "
        "first dot",
        "caption 1",
    ]
    one_key = [(f"img.{k:05d}.jpg", bytes(2000)) for k in range(600)]
    (row,) = captions(open_(write_tar(tmp_path / "1.tar", [*pairs(0, 1), *one_key])))[1:]
    assert row.startswith("sample 'img' has more than 1 MiB with 'img.004")


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
    assert [row["caption"] for row in rows] == [
        None,
        "from json",
        "three",
    ]  # a sample has a `caption`, so it is no alias
    rows = [row for row in read(open_(path, ("words", "mask.png"))) if isinstance(row, dict)]
    assert [row["words"] for row in rows] == ["one", "two", "three"]
    assert [row["mask.png"] for row in rows] == [b"mask", None, b"mask"]


def test_without_an_image_there_is_no_image_column(tmp_path: Path) -> None:
    assert open_(write_tar(tmp_path / "0.tar", sample("a", npy=b"1", txt=b"a"))).columns == [
        "__key__",
        "npy",
        "txt",
        "caption",
    ]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_truncated_tar(tmp_path: Path, zipped: bool) -> None:
    rng = random.Random(0)
    members = [m for k in range(40) for m in sample(f"{k:03d}", jpg=rng.randbytes(rng.randrange(3000)), txt=b"%d" % k)]
    content = pack(members)
    complete = gzip.compress(content) if zipped else content
    path = tmp_path / "0.tar"
    path.write_bytes(complete)
    good = read(open_(path))
    shards = open_(path)
    end = len(complete) if zipped else len(content.rstrip(b"\0")) // 512 * 512 + 512
    lengths = set()
    for cut in [rng.randrange(end) for _ in range(20)]:
        path.write_bytes(complete[:cut])
        *rows, last = read(shards)
        assert rows == good[: len(rows)]
        where = f"the rest of shard 0.tar, from row {len(rows)} on," if rows else "shard 0.tar"
        assert str(last).startswith(f"{where} could not be read: ")
        lengths.add(len(rows))
    assert len(lengths) > 5


def test_a_tar_truncated_between_members_gives_no_partial_sample(tmp_path: Path) -> None:
    content = pack(pairs(0, 3))  # each member is a block of header and a block of content
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
    content[512 * 8] ^= 1  # breaks the checksum of a header, which `tarfile` would take for the end
    shards = open_(write_tar(tmp_path / "0.tar", pairs(0, 4)))
    (tmp_path / "0.tar").write_bytes(content)
    assert captions(shards) == [
        "caption 0",
        "the rest of shard 0.tar, from row 1 on, could not be read: a member's header is broken (bad checksum)",
    ]


def test_concatenated_tars(tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(pack(pairs(0, 2)) + pack(pairs(2, 3)))
    assert captions(open_(tmp_path / "0.tar")) == ["caption 0", "caption 1", "caption 2"]
    (tmp_path / "0.tar").write_bytes(pack(pairs(0, 2))[:-100])  # some of the zeros at the end remain
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


def test_names_that_are_not_utf8_stay_distinct(tmp_path: Path) -> None:
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
