"""Every broken pair becomes a row with its error, and every other row stays as it is."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageFile
from safetensors.torch import load_file, save_file

from m2ib_lightning.cli import main
from m2ib_lightning.run.parts import SCHEMA
from m2ib_lightning.scenes.tokenizer import build_tokenizer
from tests import ROOT
from tests.equality import relative_difference
from tests.folders import save_clip_folder, save_photograph

GOOD = [("one.png", "a red circle"), ("two.jpg", "a small blue star and a white ring"), ("three.png", "the ring")]
ODD_WORD = "yellow"
"""Its embedding is NaN in the model of these tests."""


@dataclass(frozen=True)
class Bad:
    """One bad pair: its cells, the file that ``write`` makes, and the error of its row."""

    name: str
    error: str
    image: Any = "bad.png"
    caption: Any = "a star"
    write: Callable[[Path], object] | None = None


def content(data: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(data)


def part_of(share: float, suffix: str) -> Callable[[Path], object]:
    def write(path: Path) -> None:
        whole = save_photograph(path.with_suffix(f".whole.{suffix}"), 64, 64).read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])

    return write


def flipped(path: Path) -> None:
    whole = bytearray(save_photograph(path.with_suffix(".whole.png"), 64, 64).read_bytes())
    whole[len(whole) // 2] ^= 0xFF
    path.write_bytes(whole)


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header claims this size."""
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    pixels = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + pixels + chunk(b"IEND", b"")


def locked(path: Path) -> None:
    save_photograph(path, 20, 20)
    path.chmod(0)


def odd_exif(path: Path) -> None:
    Image.open(save_photograph(path.with_suffix(".whole.png"), 20, 10)).save(path, exif=b"garbage!garbage")


def not_finite(path: Path) -> None:
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(path, "tiff")


class _Sleepy(ImageFile.ImageFile):
    """A decoder that never returns."""

    format = "SLEEPY"

    def _open(self) -> None:
        self._size, self._mode = (4, 4), "RGB"

    def load(self) -> Any:
        time.sleep(3600)


Image.register_open("SLEEPY", _Sleepy, lambda prefix: prefix.startswith(b"SLEEPY"))

CELLS = [
    Bad("missing", "bad.png' does not exist"),
    Bad("url", "images at URLs are only downloaded with data.allow_urls=true", image="https://example.com/x.jpg"),
    Bad("null-image", "the image is missing (a null cell)", image=None),
    Bad("empty-cell", "the image is missing (a null cell)", image=""),
    Bad("number", "an image must be a path", image=7),
    Bad("directory", "is a directory; give the file", write=lambda path: path.mkdir()),
    Bad("pipe", "is a pipe or a device, not a file", write=lambda path: os.mkfifo(path)),
    Bad("device", "is a pipe or a device, not a file", image="/dev/zero"),
    Bad("dangling-link", "does not exist", write=lambda path: path.symlink_to("nowhere.png")),
    Bad("link-to-itself", "could not be read", write=lambda path: path.symlink_to(path.name)),
    Bad("file-as-folder", "could not be read", image="one.png/two.png"),
    Bad("long-name", "could not be read", image="x" * 300 + ".png"),
    Bad("nul-in-name", "could not be read", image="a\0b.png"),
    Bad("half-character-in-name", "could not be read", image="\udcff\ud800.png"),
    Bad("zero-bytes", "could not be read as an image of a known format", write=content(b"")),
    Bad("text", "could not be read as an image of a known format", write=content(b"hello")),
    Bad("html", "could not be read as an image of a known format", write=content(b"<html>404 not found</html>")),
    Bad("svg", "could not be read as an image of a known format", write=content(b"<svg xmlns='x'/>")),
    Bad("only-a-signature", "could not be read", write=content(b"\x89PNG\r\n\x1a\n")),
    Bad("truncated-png", "could not be read: OSError: ", write=part_of(0.5, "png")),
    Bad("truncated-jpeg", "could not be read: OSError: image file is truncated", write=part_of(0.7, "jpg")),
    Bad("flipped-byte", "could not be read: OSError: ", write=flipped),
    Bad("bomb", "is too large: Image size (2500000000 pixels)", write=content(png_of(50_000, 50_000))),
    Bad("fewer-pixels-than-promised", "could not be read: OSError", write=content(png_of(200, 200))),
    Bad("no-pixels", "could not be read", write=content(png_of(0, 10))),
    Bad("odd-exif", "could not be read: SyntaxError: not a TIFF file", write=odd_exif),
    Bad("nan-pixels", "holds pixels that are not finite", write=not_finite),
    Bad("hanging-decoder", "was still being read after 2 s (data.image_timeout)", write=content(b"SLEEPY")),
    Bad("null-caption", "the caption is missing (a null cell)", image="one.png", caption=None),
    Bad("empty-caption", "the caption is empty: there is no word to explain", image="one.png", caption=""),
    Bad("blank-caption", "the caption is empty", image="one.png", caption=" \n\t\u3000"),
    Bad("half-character", "holds half characters (surrogates)", image="one.png", caption="a \ud800 star"),
    Bad("list-of-lists", "the caption must be text, got list", image="one.png", caption=[["a star"]]),
    Bad("empty-list", "the caption is missing", image="one.png", caption=[]),
    Bad("object", "the caption must be text, got dict", image="one.png", caption={"text": "a star"}),
    Bad("only-control-characters", "holds only control characters", image="one.png", caption="\x00\x01\x07"),
    Bad("nan-in-the-weights", "the loss or the saliency is not finite", image="one.png", caption=f"a {ODD_WORD}"),
]

LINES = {
    ".csv": [
        ("ragged", b"one.png,a cat, and a dog\n", "has 3 cells and the header has 2: a cell with a comma needs quotes"),
        ("short", b"one.png\n", "has 1 cells and the header has 2"),
        ("latin-1", "one.png,Größe\n".encode("latin-1"), "is not UTF-8 (byte 0xf6): save the file as UTF-8"),
        ("utf-16", "one.png,a star".encode("utf-16") + b"\n", "is not UTF-8"),
        ("open-quote", b'one.png,"a star\n', "is a quote not closed"),
        ("inner-quote", b'one.png,"a "small" star"\n', "one within quotes not doubled"),
    ],
    ".jsonl": [
        ("cut", b'{"image": "one.png", "capt\n', "is not JSON: "),
        ("array", b'["one.png", "a star"]\n', "must be a JSON object with a name for each cell, got list"),
        ("two-in-a-line", b'{"image": "one.png"}{"image": "one.png"}\n', "is not JSON: Extra data"),
        ("deep", b"[" * 100_000 + b"\n", "is not JSON: maximum recursion depth"),
        ("latin-1", '{"image": "one.png", "caption": "Größe"}\n'.encode("latin-1"), "is not UTF-8 (byte 0xf6)"),
        ("no-caption", b'{"image": "one.png"}\n', "the caption is missing"),
    ],
    ".tsv": [("tab", b"one.png\ta\tstar\n", "has 3 cells and the header has 2: a cell can't hold a tab")],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The good images, and a model in which the embedding of one word is NaN."""
    home = tmp_path_factory.mktemp("home")
    for name, _ in GOOD:
        save_photograph(home / name, 60, 44)
    folder = save_clip_folder(home / "model", max_tokens=16)
    weights = load_file(folder / "model.safetensors")
    (token,) = build_tokenizer()(ODD_WORD, add_special_tokens=False)["input_ids"]
    weights["text_model.embeddings.token_embedding.weight"][token] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return home


def run(home: Path, table: Path, out: Path) -> list[dict[str, Any]]:
    keys = [f"model.name={home / 'model'}", "data.name=captions", f"data.path={table}", f"data.image_root={home}"]
    fast = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "data.num_workers=0", "data.image_timeout=2"]
    fast.append("data.image_formats=[SLEEPY]")
    quiet = [
        "trainer.enable_progress_bar=false",
        "trainer.precision=64-true",
        "output.tensorboard_images=0",
        "output.heatmaps=0",
    ]
    assert main([*keys, *fast, *quiet, f"output_dir={out}"]) == 0
    parts = sorted((out / "attributions").iterdir())
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def written(rows: list[tuple[Any, Any]], suffix: str) -> list[bytes]:
    """A header, if the format has one, and a line for each row."""
    if suffix == ".jsonl":
        return [json.dumps({"image": image, "caption": caption}).encode() + b"\n" for image, caption in rows]
    separator = "," if suffix == ".csv" else "\t"
    return [f"{separator.join(row)}\n".encode() for row in [("image", "caption"), *rows]]


@pytest.fixture(scope="module")
def clean(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of the good pairs alone."""
    folder = tmp_path_factory.mktemp("clean")
    (folder / "pairs.jsonl").write_bytes(b"".join(written(list(GOOD), ".jsonl")))
    return run(home, folder / "pairs.jsonl", folder / "run")


def assert_failed_alone(bad: dict[str, Any], error: str) -> None:
    """The row has the error and no result."""
    assert bad["error"] is not None
    assert error in bad["error"]
    assert [name for name in SCHEMA.names[4:] if bad[name] is not None] == ["error", "fingerprint"]


def assert_clean(rows: list[dict[str, Any]], clean: list[dict[str, Any]]) -> None:
    """The good pairs' rows are those of the clean run."""
    for row, expected in zip(rows, clean, strict=True):
        for name in set(SCHEMA.names) - {"key", "id", "heatmap", "fingerprint"}:
            if expected[name] is not None and name.endswith(("saliency", "loss", "similarity", "information")):
                assert relative_difference(row[name], expected[name]) < 1e-6, name  # rows are float32
            else:
                assert row[name] == expected[name], name


def assert_only_one_failed(rows: list[dict[str, Any]], clean: list[dict[str, Any]], error: str) -> dict[str, Any]:
    """The second row has the error and no result; the others are the clean run's."""
    assert len(rows) == len({row["key"] for row in rows}) == len(GOOD) + 1
    bad = rows.pop(1)
    assert_failed_alone(bad, error)
    assert_clean(rows, clean)
    return bad


def run_with(cells: list[Bad], home: Path, folder: Path) -> list[dict[str, Any]]:
    """The rows of the good pairs with bad ones behind the first."""
    pairs = [GOOD[0]]
    for bad in cells:
        image = bad.image
        if bad.write is not None:
            path = folder / bad.name / bad.image
            path.parent.mkdir()
            bad.write(path)
            image = str(path)
        pairs.append((image, bad.caption))
    (folder / "pairs.jsonl").write_bytes(b"".join(written([*pairs, *GOOD[1:]], ".jsonl")))
    return run(home, folder / "pairs.jsonl", folder / "run")


@pytest.fixture(scope="module")
def mixed(home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The rows of one run over the good pairs and every bad cell."""
    return run_with(CELLS, home, tmp_path_factory.mktemp("mixed"))


@pytest.mark.parametrize("place", range(len(CELLS)), ids=[bad.name for bad in CELLS])
def test_a_bad_cell_costs_its_own_row(place: int, mixed: list[dict[str, Any]]) -> None:
    row = mixed[place + 1]
    assert_failed_alone(row, CELLS[place].error)
    assert re.fullmatch(rf"pairs\.jsonl:{place + 1}(\.0)?", row["key"])


def test_bad_cells_leave_the_other_rows_as_they_are(mixed: list[dict[str, Any]], clean: list[dict[str, Any]]) -> None:
    assert len(mixed) == len({row["key"] for row in mixed}) == len(GOOD) + len(CELLS)
    assert_clean([mixed[0], *mixed[len(CELLS) + 1 :]], clean)


def test_a_file_that_may_not_be_read_costs_its_own_row(
    home: Path, clean: list[dict[str, Any]], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if os.geteuid() == 0:  # root may read every file
        for folder in (home, *home.rglob("*"), tmp_path, *list(tmp_path.parents)[:3]):
            folder.chmod(0o777) if folder.is_dir() else folder.chmod(0o666)
        os.seteuid(65534)
        request.addfinalizer(lambda: os.seteuid(0))
    bad = Bad("no-permission", "may not be read: permission denied", write=locked)
    assert_only_one_failed(run_with([bad], home, tmp_path), clean, bad.error)


FAST_LINES = ["csv-ragged", "csv-latin-1", "csv-open-quote", "jsonl-cut", "jsonl-no-caption", "tsv-tab"]
LINE_CASES = [
    pytest.param(
        *(suffix, line, error),
        id=f"{suffix[1:]}-{name}",
        marks=() if f"{suffix[1:]}-{name}" in FAST_LINES else pytest.mark.slow,
    )
    for suffix, cases in LINES.items()
    for name, line, error in cases
]


@pytest.mark.parametrize(("suffix", "line", "error"), LINE_CASES)
def test_a_bad_line_costs_its_own_row(
    suffix: str, line: bytes, error: str, home: Path, clean: list[dict[str, Any]], tmp_path: Path
) -> None:
    table = tmp_path / f"pairs{suffix}"
    lines = written(list(GOOD), suffix)
    lines.insert(len(lines) - 2, line)
    table.write_bytes(b"".join(lines))
    failed = assert_only_one_failed(run(home, table, tmp_path / "run"), clean, error)
    if "caption is missing" not in error:
        number = 2 if suffix == ".jsonl" else 3
        assert f"line {number} of pairs{suffix}" in failed["error"]


@pytest.mark.parametrize("kind", ["null", "bytes-that-are-no-image", "no-utf8"])
def test_a_bad_cell_of_a_parquet_file_costs_its_own_row(
    kind: str, home: Path, clean: list[dict[str, Any]], tmp_path: Path
) -> None:
    captions: list[Any] = [GOOD[0][1].encode(), b"a star", *(caption.encode() for _, caption in GOOD[1:])]
    pictures: list[Any] = [(home / name).read_bytes() for name, _ in GOOD]
    pictures.insert(1, {"null": None, "bytes-that-are-no-image": b"nothing", "no-utf8": pictures[0]}[kind])
    if kind == "no-utf8":
        captions[1] = b"a \xff star"
    table = pa.table({"image": pa.array(pictures, pa.binary()), "caption": pa.array(captions).view(pa.string())})
    pq.write_table(table, tmp_path / "pairs.parquet")
    rows = run(home, tmp_path / "pairs.parquet", tmp_path / "run")
    for row, expected in zip([rows[0], *rows[2:]], clean, strict=True):
        assert row["image"] == row["key"]  # a picture inside the table has no name of its own
        row["image"] = expected["image"]
    error = {"null": "the image is missing", "bytes-that-are-no-image": "of a known format", "no-utf8": "UnicodeDecode"}
    assert_only_one_failed(rows, clean, error[kind])


ODD_IDS = ["a/b/c", "../../etc/passwd", "..", ".", "/", "a\0b", "x" * 300, "!?:;", "-", "", "con", "日本", "a\nb"]
ODD_IDS += ["same", "same"]


def test_no_id_leaves_the_run_directory(home: Path, tmp_path: Path) -> None:
    lines = [json.dumps({"image": "one.png", "caption": "a star", "uid": identity}) for identity in ODD_IDS]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    before = sorted(path for path in tmp_path.rglob("*"))
    keys = [f"model.name={home / 'model'}", "data.name=captions", f"data.path={tmp_path / 'pairs.jsonl'}"]
    more = ["data.id_column=uid", f"data.image_root={home}", "bottleneck.steps=1", "bottleneck.noise_samples=1"]
    more += ["data.num_workers=0", "output.tensorboard_images=0"]
    assert main([*keys, *more, f"output_dir={tmp_path / 'run'}"]) == 0
    assert sorted(path for path in tmp_path.rglob("*") if tmp_path / "run" not in (path, *path.parents)) == before
    (part,) = (tmp_path / "run" / "attributions").iterdir()
    rows = pq.read_table(part).to_pylist()
    assert [row["id"] for row in rows] == ODD_IDS
    assert len({row["key"] for row in rows}) == len({row["heatmap"] for row in rows}) == len(ODD_IDS)
    files = sorted(path.name for path in (tmp_path / "run" / "heatmaps").iterdir())
    assert files == sorted(row["heatmap"] for row in rows)
    assert max(len(name) for name in files) < 100


def test_a_pair_that_gives_nan_is_left_out_of_a_prior(home: Path, tmp_path: Path) -> None:
    pairs = [GOOD[0], ("one.png", f"a {ODD_WORD}"), *GOOD[1:]]
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(written(pairs, ".jsonl")))
    keys = [f"model.name={home / 'model'}", "data.name=captions", f"data.path={tmp_path / 'pairs.jsonl'}"]
    more = ["bottleneck.text.prior=data", f"data.image_root={home}", "bottleneck.steps=1", "data.num_workers=0"]
    assert main([*keys, *more, f"output_dir={tmp_path / 'run'}"]) == 0
    (part,) = (tmp_path / "run" / "attributions").iterdir()
    assert [row["error"] is None for row in pq.read_table(part).to_pylist()] == [True, False, True, True]


def test_odd_but_readable_pairs_are_explained_and_counted(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    pairs = [
        (str(tmp_path / "moving.gif"), "a star"),
        ("one.png", "red " * 40),
        ("one.png", "日本"),
        ("one.png", "نجمة star"),
        ("one.png", "a\x00 star\x07"),
    ]
    (tmp_path / "pairs.jsonl").write_bytes(b"".join(written(pairs, ".jsonl")))
    rows = run(home, tmp_path / "pairs.jsonl", tmp_path / "run")
    assert [row["error"] for row in rows] == [None] * 5
    printed = capsys.readouterr().out
    assert "1 image with more than one frame: the first was explained." in printed
    assert "1 caption longer than the model reads: only the beginning was explained." in printed
    assert "3 captions with words that the model's vocabulary does not know, 1 with no other words." in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["images_animated"] == summary["captions_truncated"] == summary["captions_wholly_unknown"] == 1
    assert [rows[4]["caption"][start:end] for start, end in rows[4]["token_offsets"]] == ["a", "\x00", "star", "\x07"]


@pytest.mark.slow
def test_the_fuzzer_finds_nothing_in_a_few_seconds(tmp_path: Path) -> None:
    script = ROOT / "scripts" / "fuzz_readers.py"
    findings = tmp_path / "findings"
    command = [sys.executable, str(script), "--seconds", "8", "--seed", "7", "--findings", str(findings)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "0 findings" in done.stdout
    assert "png: read" in done.stdout
    assert "jsonl: rows with errors" in done.stdout
