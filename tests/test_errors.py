"""Text that is not ours is escaped and cut wherever a message shows it."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.captions import CaptionSource
from m2ib_lightning.errors import M2IBError, PairError, escaped, listed, nearest, quoted, shortened
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.shards.tar import read_tar
from m2ib_lightning.pairs.tables.cells import Columns
from m2ib_lightning.pairs.tables.open_table import open_table
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.outcome import print_outcome
from m2ib_lightning.run.summary import Summary
from tests.pairs.shards.shards import pack, sample

RAW = "\x1b[31mred\x1b]0;title\x07"
ESCAPED = r"\x1b[31mred\x1b]0;title\x07"


def is_clean(text: str) -> bool:
    return all(char.isprintable() or char in "\n\t" for char in text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RAW, ESCAPED),
        ("a\r\nb\tc", r"a\r\nb\tc"),
        ("\x9b31m\x7f\x00", r"\x9b31m\x7f\x00"),
        ("a\u202eb\u2066c\u200e", r"a\u202eb\u2066c\u200e"),
        ("line\u2028end\u0085", r"line\u2028end\x85"),
        ("half \ud800", r"half \ud800"),
        ("größe 日本 😀 \u3000\u00a0", "größe 日本 😀 \u3000\u00a0"),
        ("क\u200dष 👩\u200d👧", "क\u200dष 👩\u200d👧"),
    ],
)
def test_control_characters_are_escaped(text: str, expected: str) -> None:
    assert escaped(text) == escaped(expected) == expected


def test_errors_escape_their_message() -> None:
    error = PairError(f"one\n{RAW}")
    assert str(error) == f"one\n{ESCAPED}"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)  # workers send errors to the main process
    pair = Pair("k", "i", "a.png", None, error=f"one\n{RAW}")
    assert pair.error == rf"one\n{ESCAPED}"


@pytest.mark.parametrize("quote", [quoted, shortened, lambda text: listed([text])])
def test_a_quotation_has_at_most_eighty_characters(quote: Callable[[str], str]) -> None:
    assert RAW not in quote(RAW)
    assert "x" * 80 in quote("x" * 80)
    assert "x" * 81 not in quote("x" * 10_000)
    assert "..." in quote("x" * 81)


def test_quotations_of_other_values_are_short() -> None:
    assert quoted(b"x" * 1000) == f"{b'x' * 80!r}... (1,000 bytes)"
    assert len(quoted(list(range(10_000)))) == 83
    assert quoted([1.5, None]) == "[1.5, None]"
    assert listed([f"c{k}" for k in range(100)]).endswith("c29, and 70 more")
    assert nearest("x" * 10**6, ["y" * 10**6, "z"]) == ""


def tar_error() -> str:
    content = pack(sample(f"x{RAW}", txt=b"\xff", png=b"x"))
    (error,) = read_tar(io.BufferedReader(io.BytesIO(content)))
    return str(error)


def sparse_error() -> str:
    header = tarfile.TarInfo(f"x{RAW}.png")
    header.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(tarfile.ReadError) as raised:
        list(read_tar(io.BufferedReader(io.BytesIO(header.tobuf(tarfile.GNU_FORMAT)))))
    return str(raised.value)


def column_error(tmp_path: Path, content: str = f"caption{RAW},image\na,b\n", name: str = "a.csv") -> str:
    (tmp_path / name).write_text(content)
    with pytest.raises(M2IBError) as raised:
        CaptionSource(open_table(str(tmp_path / name), "train", ("caption", "image")), Columns(), None)
    return str(raised.value)


def row_error(tmp_path: Path) -> str:
    (tmp_path / f"{RAW}.csv").write_text("image,caption\na.png\nb.png,b\n")
    table = open_table(str(tmp_path / f"{RAW}.csv"), "train", ("caption", "image"))
    return str(CaptionSource(table, Columns(), None)[0].error)


def folder_error(tmp_path: Path) -> str:
    (tmp_path / f"{RAW}.png").touch()
    (tmp_path / "b.png").touch()
    (tmp_path / "b.txt").touch()
    table = open_table(str(tmp_path), "train", ("caption", "image"))
    return str(next(table[k]["caption"] for k in range(2) if RAW in table[k]["image"]))


def test_names_of_the_data_are_escaped_in_errors(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    errors = [tar_error(), sparse_error(), column_error(tmp_path), row_error(tmp_path), folder_error(folder)]
    errors.append(column_error(tmp_path, json.dumps({RAW: 1}), "a.jsonl"))
    for error in errors:
        assert is_clean(error), error
        assert "red" in error


def test_the_outcome_of_a_run_is_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from m2ib_lightning.run.counts import Counts

    failures: list[dict[str, Any]] = [{"key": f"{RAW}.tar:0", "error": f"no\n{RAW}"}]
    missing = [f"{RAW}.tar:1"]
    summary = Summary(Counts(failed=1), 1.0, 2, 1, missing, failures=failures)
    print_outcome(RunDirectory(tmp_path), summary, stopped=False)
    printed = "".join(capsys.readouterr())
    assert is_clean(printed)
    assert rf"{ESCAPED}.tar:0: no\n{ESCAPED}" in printed
    assert f"({ESCAPED}.tar:1)" in printed


def test_the_command_prints_no_control_character_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_text(f"caption{RAW},image\na,b\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main(["data.name=captions", f"data.path={tmp_path / 'a.csv'}", f"output_dir={tmp_path / 'run'}"]) == 2
    printed = capsys.readouterr().err
    assert is_clean(printed)
    assert f"it has caption{ESCAPED}, image" in printed
