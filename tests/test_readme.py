"""The README's commands and examples run, and the files that the documents name exist."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

from m2ib_lightning.cli import main, parse
from m2ib_lightning.config import Config
from tests import ROOT
from tests.documents import DOCUMENTS, HUB_ID, blocks, name_of
from tests.folders import save_clip_folder, save_photograph

README = (ROOT / "README.md").read_text()


def fast(example: str) -> str:
    """An example with a small model and fewer pairs."""
    return example.replace(HUB_ID, "model").replace("limit=16", "limit=2")


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the README's examples use: a picture, a table, and a model."""
    monkeypatch.chdir(tmp_path)
    save_photograph(tmp_path / "cat.jpg", 64, 48)
    (tmp_path / "pairs.csv").write_text('image,caption\ncat.jpg,"a red circle"\n')
    save_clip_folder(tmp_path / "model")
    return tmp_path


@pytest.mark.slow
def test_the_python_blocks_run(desk: Path) -> None:
    examples = blocks("python", README)
    assert len(examples) == 4
    for block in examples:
        exec(compile(fast(block), "README.md", "exec"), {})
    with Image.open(desk / "cat_explained.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.slow
def test_the_python_blocks_of_the_page_on_grounding_run(desk: Path) -> None:
    examples = blocks("python", (ROOT / "docs" / "grounding.md").read_text())
    assert len(examples) == 3
    for block in examples:
        exec(compile(block, "grounding.md", "exec"), {})
    assert (desk / "units.png").exists()


@pytest.mark.slow
def test_the_python_blocks_of_the_page_on_pictures_run(desk: Path) -> None:
    examples = blocks("python", (ROOT / "docs" / "pictures.md").read_text())
    assert len(examples) == 2
    for block in examples:
        exec(compile(block, "pictures.md", "exec"), {})
    assert {"map.png", "lines.png", "figure.svg", "captions.png", "methods.png"} <= set(os.listdir(desk))


def test_the_commands_run(desk: Path) -> None:
    lines = [line for block in blocks("bash", README) for line in block.splitlines() if line.strip()]
    commands = [shlex.split(line, comments=True) for line in lines]
    targets = re.findall(r"^(\S+): ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    fits = 0
    for program, *words in commands:
        if program == "make":
            assert words[0] in targets
        else:
            assert words.pop(0) == "fit.py"
            fits += 1
            assert isinstance(parse(words), Config)
            short = ["data.limit=2", "evaluate.methods=[m2ib, saliency]", "evaluate.probed=0"]
            assert main([word.replace(HUB_ID, "model") for word in words] + ["data.num_workers=0", *short]) == 0
    assert fits == 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_file_that_is_named_exists(document: Path) -> None:
    text = document.read_text()
    rooms = "m2ib_lightning|benchmarks|configs|datamodules|scripts|tests"
    for name in re.findall(rf"[`\s]((?:{rooms})/[\w./]*)[`\s)]", text):
        assert (ROOT / name).exists(), name
