"""Sizes that the headers of a tar claim are not believed: neither time nor memory depends on them."""

from __future__ import annotations

import gzip
import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from m2ib_lightning.pairs.shards import tar
from m2ib_lightning.pairs.shards.tar import MAX_SAMPLE_BYTES, read_tar
from m2ib_lightning.pairs.shards.tar_archive import MAX_HEADER_BYTES
from m2ib_lightning.pairs.time_limit import within
from tests.pairs.shards.shards import captions, open_, pack, pairs, read, sample, write_tar


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims any size, in base 256 as for files above 8 GiB."""
    block = bytearray(tarfile.TarInfo(name).tobuf(tarfile.GNU_FORMAT))
    block[124:136] = (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=True)
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % 512)


def pax(records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    return header("pax", len(records), kind) + padded(records)


def record(name: bytes, value: bytes) -> bytes:
    rest = b" %b=%b\n" % (name, value)
    length = len(rest) + 1
    while len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d" % length + rest


def bomb(kind: bytes) -> bytes:
    """A gzipped header of 16 MiB."""
    return gzip.compress(header("bomb", 2**24, kind) + b"a" * 2**24, 1)


def error_of(content: bytes) -> str:
    """The error of a shard, which must come soon."""
    with pytest.raises(tarfile.ReadError) as raised:
        within(20.0, lambda: list(read_tar(io.BufferedReader(io.BytesIO(content)))))
    return str(raised.value)


BROKEN = {
    "size-base-256": (header("a.png", 2**60) + b"x" * 97, "unexpected end of data"),
    "size-of-a-skipped-member": (header("README", 2**60) + b"x" * 97, "unexpected end of data"),
    "size-in-pax": (pax(record(b"size", b"%d" % 2**60)) + header("a.png", 1) + padded(b"x"), "unexpected end of data"),
    "size-in-pax-is-no-number": (pax(record(b"size", b"-5")) + header("a.png", 1), "claims b'-5' bytes"),
    "negative-size": (header("a.png", -512) + bytes(1024), "claims -512 bytes"),
    "negative-long-name": (header("x", -1, tarfile.GNUTYPE_LONGNAME) + bytes(1024), "claims -1 bytes"),
    "long-name": (bomb(tarfile.GNUTYPE_LONGNAME), "a long name claims 16,777,216 bytes"),
    "long-link": (bomb(tarfile.GNUTYPE_LONGLINK), "a long name claims 16,777,216 bytes"),
    "pax": (bomb(tarfile.XHDTYPE), "a PAX header claims 16,777,216 bytes"),
    "global-pax": (bomb(tarfile.XGLTYPE), "a PAX header claims 16,777,216 bytes"),
    "pax-of-digits": (pax(b"1" * MAX_HEADER_BYTES), "a PAX header is broken"),
    "pax-that-points-back": (pax(b"0 a=b\n" * 9), "a PAX header is broken"),
    "sparse": (header("a.png", 512, tarfile.GNUTYPE_SPARSE) + bytes(512), "is a sparse file"),
    "sparse-in-pax": (pax(record(b"GNU.sparse.map", b"0,1")) + header("a.png", 0), "is a sparse file"),
    "chain": (pax(record(b"path", b"a")) * 2000, "more than 8 extended headers"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_claimed_size_costs_neither_time_nor_memory(name: str) -> None:
    content, message = BROKEN[name]
    tracemalloc.start()
    try:
        assert message in error_of(content)
        assert tracemalloc.get_traced_memory()[1] < 2**23
    finally:
        tracemalloc.stop()


def test_samples_before_a_claimed_size_are_read(tmp_path: Path) -> None:
    shards = open_(write_tar(tmp_path / "0.tar", pairs(0, 2)))
    (tmp_path / "0.tar").write_bytes(pack(pairs(0, 2)).rstrip(b"\0") + bytes(503) + header("b.png", 2**60))
    rows = captions(shards)
    assert rows[0] == "caption 0"
    assert rows[-1].startswith("the rest of shard 0.tar, from row")


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_pax_headers_of_a_usual_size_are_read(tmp_path: Path, form: int) -> None:
    key = "folder/" * 40 + "größe"
    with tarfile.open(tmp_path / "0.tar", "w", format=form, pax_headers={"comment": "all"}) as archive:
        for name, content in sample(key, jpg=b"picture", txt=b"a ring"):
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), 1.5  # a fraction of a second goes to a PAX header
            archive.addfile(member, io.BytesIO(content))
    (row,) = read(open_(tmp_path / "0.tar"))
    assert isinstance(row, dict)
    assert (row["__key__"], row["image"], row["caption"]) == (key, b"picture", "a ring")


def test_the_size_of_a_pax_header_counts() -> None:
    content = pax(record(b"size", b"600")) + header("a.txt", 1) + padded(b"x" * 600) + pack(sample("b", txt=b"y"))
    first, second = read_tar(io.BufferedReader(io.BytesIO(content)))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert (first["txt"], second["txt"]) == ("x" * 600, "y")


def test_names_count_towards_the_size_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar, "MAX_SAMPLE_BYTES", 2**20)
    members = [(f"a.{k:03d}{'x' * 30_000}", b"") for k in range(40)]
    (row,) = read_tar(io.BufferedReader(io.BytesIO(pack(members))))
    assert "has more than 1 MiB with 'a.03" in str(row)
    assert len(str(row)) < 400


@pytest.mark.parametrize(
    ("extension", "limit", "kind"),
    [("txt", tar.MAX_TEXT_BYTES, "text"), ("v.caption", tar.MAX_TEXT_BYTES, "text"), ("json", 2**24, "JSON")],
)
def test_texts_and_json_have_limits_of_their_own(extension: str, limit: int, kind: str) -> None:
    members = [(f"a.{extension}", b"1" * (limit + 1)), *sample("b", txt=b"next")]
    broken, good = read_tar(io.BufferedReader(io.BytesIO(pack(members))))
    assert str(broken) == f"'a.{extension}' has {limit + 1:,} bytes: {kind} of up to {limit:,} bytes is read"
    assert isinstance(good, dict)
    assert limit < MAX_SAMPLE_BYTES
