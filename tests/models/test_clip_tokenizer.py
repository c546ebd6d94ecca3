"""CLIP's tokenizer for a checkpoint that brings none: the places of its vocabulary, in their order."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.clip_tokenizer import HUB_ID, MERGES_FILE, _packages, find_tokenizer
from tests.openai_clip import MERGES, VOCABULARY, save_vocabulary

BEGIN, END = VOCABULARY - 2, VOCABULARY - 1
CAT, DOG, RED = 512 + 1, 512 + 3, 512 + 5
A = 256 + ord("a") - ord("!")  # OpenAI's order of the bytes begins with the printable ones
CAPTION, IDS = "A red  CAT a", [BEGIN, A, RED, CAT, A, END]


@pytest.fixture(autouse=True)
def no_other_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No vocabulary is in an installed package or in the hub's cache of this machine."""
    monkeypatch.setattr("m2ib_lightning.models.clip_tokenizer._packages", lambda: iter(()))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def save_hugging_face(folder: Path) -> Path:
    """Save the same vocabulary as Hugging Face does, with every file that it may have."""
    save_vocabulary(folder)
    tokenizer = find_tokenizer(folder, VOCABULARY, 77)
    (folder / MERGES_FILE).unlink()
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(tokenizer.get_vocab()))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return folder


def test_ids_are_those_of_openai_s_tokenizer(tmp_path: Path) -> None:
    save_vocabulary(tmp_path)
    tokenizer = find_tokenizer(tmp_path, VOCABULARY, 20)
    assert len(tokenizer) == VOCABULARY
    assert tokenizer(CAPTION)["input_ids"] == IDS
    assert tokenizer("dog")["input_ids"] == [BEGIN, DOG, END]
    assert tokenizer("!")["input_ids"] == [BEGIN, 256, END]  # the first byte, at the end of a word
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (BEGIN, END, END)
    assert tokenizer.model_max_length == 20


@pytest.mark.parametrize("files", [["tokenizer.json"], ["vocab.json", "merges.txt"]])
def test_hugging_face_s_files_beside_the_checkpoint(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    source = save_hugging_face(tmp_path / "all")
    for file in files:
        shutil.copy(source / file, tmp_path)
    assert find_tokenizer(tmp_path, VOCABULARY, 77)(CAPTION)["input_ids"] == IDS


def test_an_installed_package_and_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "hub" / f"models--{HUB_ID.replace('/', '--')}"
    for folder in (tmp_path / "folder", tmp_path / "package", cached / "refs", cached / "snapshots" / "abc"):
        folder.mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    save_hugging_face(cached / "snapshots" / "abc")
    assert find_tokenizer(tmp_path / "folder", VOCABULARY, 77)(CAPTION)["input_ids"] == IDS
    save_vocabulary(tmp_path / "package", MERGES[:-1], rest=())  # it is taken first, and is too small
    monkeypatch.setattr("m2ib_lightning.models.clip_tokenizer._packages", lambda: iter([tmp_path / "package"]))
    with pytest.raises(M2IBError, match=rf"package/{MERGES_FILE} has {VOCABULARY - 1} tokens, .* has {VOCABULARY}"):
        find_tokenizer(tmp_path / "folder", VOCABULARY, 77)
    save_vocabulary(tmp_path / "package")
    assert find_tokenizer(tmp_path / "folder", VOCABULARY, 77)(CAPTION)["input_ids"] == IDS


def test_an_installed_package_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert tmp_path / "open_clip" in list(_packages())


def test_without_a_vocabulary_the_message_says_what_to_put_where(tmp_path: Path) -> None:
    with pytest.raises(M2IBError, match=r"no vocabulary.*Put one of these beside it: tokenizer.json.*bpe_simple_vocab"):
        find_tokenizer(tmp_path, VOCABULARY, 77)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (MERGES_FILE, b"no gzip", "could not read CLIP's vocabulary from .*bpe_simple_vocab.*Not a gzipped file"),
        (MERGES_FILE, gzip.compress(b"#\nc a\n" * 9, mtime=0)[:-12], "could not read .*bpe_simple_vocab"),
        (MERGES_FILE, gzip.compress(b"#\nc a b\n", mtime=0), "each of its lines must be two parts of a word"),
        (MERGES_FILE, gzip.compress(b"\n" * (17 << 20), mtime=0), "has more than 16777216 characters"),
        (MERGES_FILE, gzip.compress(b"\xff\xff", mtime=0), "could not read .*bpe_simple_vocab.*utf-8"),
        ("tokenizer.json", b"{", "could not read CLIP's vocabulary from .*tokenizer.json"),
        ("tokenizer.json", b"[1]", "could not read CLIP's vocabulary from .*tokenizer.json"),
    ],
)
def test_a_damaged_vocabulary_is_named(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(M2IBError, match=message):
        find_tokenizer(tmp_path, VOCABULARY, 77)


def test_the_end_of_text_must_be_the_last_token(tmp_path: Path) -> None:
    source = save_hugging_face(tmp_path)
    (source / "tokenizer.json").unlink()
    words = json.loads((source / "vocab.json").read_text())
    words["<|startoftext|>"], words["<|endoftext|>"] = END, BEGIN
    (source / "vocab.json").write_text(json.dumps(words))
    with pytest.raises(M2IBError, match=f"ends captions with the token {BEGIN}; OpenAI's CLIP pools at .*{END}"):
        find_tokenizer(source, VOCABULARY, 77)
