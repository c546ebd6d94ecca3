"""The files of a path, and the messages for sources that can't be opened."""

from __future__ import annotations

from pathlib import Path

import pytest

from m2ib_lightning.errors import M2IBError
from tests.pairs.shards.shards import captions, open_, pairs, sample, write_parquet, write_tar


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, files of other kinds, and files that can't be read."""
    folder = tmp_path_factory.mktemp("files")
    for k in range(12):
        write_tar(folder / "shards" / f"{k:05d}.tar", pairs(k * 2, k * 2 + 2))
    (folder / "shards" / "00000_stats.json").write_text("{}")
    write_tar(folder / "shards" / "._00000.tar", pairs(0, 1))
    write_tar(folder / "both" / "0.tar", pairs(0, 1))
    write_parquet(folder / "both" / "0.parquet", 0, 1)
    write_tar(folder / "zeros.tar", [])
    write_tar(folder / "words.tar", sample("a", txt=b"\xff"))
    for name in ("empty.tar", "empty.parquet"):
        (folder / name).write_bytes(b"")
    (folder / "wrong.tar").write_text("<html>not found</html>" * 100)
    (folder / "hollow").mkdir()
    (folder / "wrong").mkdir()
    for k in range(12):
        (folder / "wrong" / f"{k}.tar").write_bytes(b"")
    return folder


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
def test_the_files_of_a_path(folder: Path, scheme: str, pattern: str, start: int, stop: int) -> None:
    if scheme and "[" in pattern:
        pytest.skip("globs of URLs need a *")
    shards = open_(f"{scheme}{folder}/shards{pattern}")
    assert shards.names == [f"{k:05d}.tar" for k in range(start, stop)]
    assert captions(shards) == [f"caption {k}" for k in range(start * 2, stop * 2)]
    assert shards.folder == (Path() if scheme else folder / "shards")


def test_urls_of_parquet_files(tmp_path: Path) -> None:
    for k in range(2):
        write_parquet(tmp_path / f"{k}.parquet", k * 100, k * 100 + 100, row_group_size=30)
    assert captions(open_(f"file://{tmp_path}/*.parquet")) == [f"caption {k}" for k in range(200)]
    rows = captions(open_(f"file://{tmp_path}/{{0..2}}.parquet"))
    assert rows[:-1] == [f"caption {k}" for k in range(200)]
    assert rows[-1] == "shard 2.parquet could not be read: it does not exist"


def test_shards_of_one_name_in_several_folders(tmp_path: Path) -> None:
    for k, folder in enumerate(("train", "dev")):
        write_tar(tmp_path / "all" / folder / "0.tar", pairs(k, k + 1))
    shards = open_(tmp_path / "**" / "*.tar")
    assert shards.names == ["dev/0.tar", "train/0.tar"]
    assert shards.folder == tmp_path / "all"
    assert captions(shards) == ["caption 1", "caption 0"]


def test_relative_globs_and_folder_names_with_magic_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
            r"no file named '.*/shards/\*\.txt': the folder has 00000\.tar to 00011\.tar \(12 files\)",
        ),
        ("shards/{00010..00019}.tar", r"no file named '.*00012\.tar', nor 7 more of the 10: the folder has 00000"),
        ("no/{0..9}.tar", r"no file named '.*no/0\.tar', nor 9 more of the 10, nor a folder '.*no'"),
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
def test_sources_that_can_not_be_opened(folder: Path, pattern: str, message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        open_(folder / pattern)


def test_urls_that_can_not_be_opened(tmp_path: Path) -> None:
    with pytest.raises(M2IBError, match=r"nothing:///a/\*\.tar' could not be read: Protocol not known: nothing"):
        open_("nothing:///a/*.tar")
    with pytest.raises(M2IBError, match=r"nothing:///a\.tar' could not be read: Protocol not known: nothing"):
        open_("nothing:///a.tar")
    with pytest.raises(M2IBError, match=r"could not be read: '.*' has no \.tar, .* files"):
        open_(f"file://{tmp_path}")
    with pytest.raises(M2IBError, match="none could be read, the first: it does not exist"):
        open_(f"file://{tmp_path}/{{0..3}}.tar")


def test_opening_skips_unreadable_shards(tmp_path: Path) -> None:
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
