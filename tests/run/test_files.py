"""Files that a later start reads are never half-written, whatever ends their writer, and are read with care."""

from __future__ import annotations

import ast
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_folder, atomic_write, atomic_write_text, read_yaml, remove_leftovers
from m2ib_lightning.finetuning.checkpoint import AtomicCheckpointIO
from m2ib_lightning.m2ib.statistics import Prior, Statistics
from tests.test_architecture import ROOT, modules


@contextmanager
def full_disk(limit: int = 1000) -> Iterator[None]:
    """Context in which no file may be longer than ``limit`` bytes: writing fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def killed(work: Callable[[], object]) -> None:
    """Run ``work`` in a fork, which it ends with ``os._exit``, as a kill does."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(1)  # work has not ended the process
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


STATISTICS = Statistics({"image.3": Prior(torch.zeros(400).double(), torch.ones(400).double())})
WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: atomic_write_text(path, "new" * 1000),
    "statistics": STATISTICS.save,
    "checkpoint": lambda path: AtomicCheckpointIO().save_checkpoint({"state_dict": {"a": torch.ones(1000)}}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_leaves_the_old_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        WRITERS[name](path)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
    WRITERS[name](path)
    assert path.stat().st_size > 1000
    assert os.listdir(tmp_path) == ["file"]


def test_a_kill_leaves_the_old_file_and_the_next_start_removes_the_rest(tmp_path: Path) -> None:
    path, folder = tmp_path / "file", tmp_path / "folder"
    path.write_text("old")
    folder.mkdir()
    (folder / "model.safetensors").write_text("old")

    def die_in_a_file() -> None:
        with atomic_write(path) as file:
            file.write(b"half of the new")
            file.flush()
            os._exit(9)

    def die_in_a_folder() -> None:
        with atomic_folder(folder) as unfinished:
            (unfinished / "model.safetensors").write_text("new")
            os._exit(9)

    killed(die_in_a_file)
    killed(die_in_a_folder)
    assert (path.read_text(), (folder / "model.safetensors").read_text()) == ("old", "old")
    assert len(os.listdir(tmp_path)) == 4
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]


def test_a_folder_is_replaced_as_one_and_keeps_what_others_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for round_number in (1, 2):
        with atomic_folder(folder) as unfinished:
            (unfinished / "config.json").write_text(str(round_number))
            assert not folder.exists() or round_number == 2
        (folder / "README.md").write_text("of the user")
        (folder / "model-00001-of-00002.safetensors").write_text("stale")
    with full_disk(), pytest.raises(OSError, match="too large"), atomic_folder(folder) as unfinished:
        (unfinished / "config.json").write_text("3" * 2000)
    assert (folder / "config.json").read_text() == "2"
    with atomic_folder(folder) as unfinished:
        (unfinished / "config.json").write_text("4")
    assert sorted(os.listdir(folder)) == ["README.md", "config.json"]
    assert os.listdir(tmp_path) == ["model"]


IN_PLACE = {
    "m2ib_lightning.results.figures.saving": "files that the user names, which no start reads",
    "m2ib_lightning.run.pages.side_files": "lines of outlines, of which the page leaves out a torn one",
    "m2ib_lightning.finetuning.metrics_file": "lines of metrics, of which the page leaves out a torn one",
    "m2ib_lightning.run.journal": "a journal is read to its last whole batch",
    "m2ib_lightning.run.sharding.launch": "a lock is read by people only",
    "m2ib_lightning.files": "writes the temporary files",
    "m2ib_lightning.finetuning.folder": "writes into the temporary folder",
    "m2ib_lightning.models.open_clip_processor": "writes into the temporary folder",
}
"""Modules that write to a file in place, each with the reason why that is right."""


def test_no_other_module_writes_in_place() -> None:
    writers = {name for name, path in modules(ROOT).items() if any(writes(node) for node in ast.walk(tree_of(path)))}
    assert writers == set(IN_PLACE)


def tree_of(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def writes(node: ast.AST) -> bool:
    """Whether a node of the code calls something that opens a file for writing."""
    if not isinstance(node, ast.Call):
        return False
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    if name in ("write_text", "write_bytes", "save_file", "save_pretrained"):
        return True
    modes = [
        value.value for value in node.args[-2:] if isinstance(value, ast.Constant) and isinstance(value.value, str)
    ]
    return name == "open" and any(set("wxa+") & set(mode) and len(mode) <= 3 for mode in modes)


BAD_YAML = {
    "not UTF-8": (b"\xff\xfe\x00", "must be text in UTF-8, but byte 0 is not"),
    "words": (b"just words", "must hold keys and values, got text"),
    "a list": (b"- a\n- b", "must hold keys and values, got a list"),
    "nothing": (b"", "must hold keys and values, got nothing"),
    "cut short": (b"a: [1, 2", "could not be read as YAML"),
    "deep lists": (b"a: " + b"[" * 20000 + b"]" * 20000, "is nested more than 16 deep"),
    "deep mappings": (b"a: " + b"{b: " * 5000 + b"1" + b"}" * 5000, "is nested more than 16 deep"),
    "deep blocks": (b"\n".join(b" " * depth + b"a:" for depth in range(999)), "is nested more than 16 deep"),
    "an alias": (b"a: &x [1, 2]\nb: *x", r"has an alias \(\*x\)"),
    "code": (b"a: !!python/object/apply:os.system [touch here]", "could not be read as YAML"),
    "too large": (b"a: " + b"x" * (1 << 20), "has more than 1048576 bytes"),
    "a list as key": (b"{[a]: b}", "could not be read as YAML"),
}


@pytest.mark.parametrize("name", BAD_YAML)
def test_yaml_that_may_be_anything(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file.yaml"
    path.write_bytes(BAD_YAML[name][0])
    with pytest.raises(M2IBError, match=BAD_YAML[name][1]) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)


def test_yaml_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(M2IBError, match="could not be read as YAML"):
        read_yaml(tmp_path / "file.yaml")
    with pytest.raises(M2IBError, match="could not be read as YAML"):
        read_yaml(tmp_path)
