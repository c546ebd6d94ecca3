"""The examples of the site's short pages run: Python, and the commands."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from m2ib_lightning.cli import main, parse
from m2ib_lightning.config import Config
from m2ib_lightning.methods import METHODS
from tests import ROOT
from tests.documents import HUB_ID, NEW_PAGES, blocks, name_of
from tests.folders import save_clip_folder, save_photograph


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the files that the pages use: pictures, tables and a model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(METHODS, "_items", dict(METHODS._items))
    save_photograph(tmp_path / "cat.jpg", 64, 48)
    (tmp_path / "pairs.csv").write_text('image,caption\ncat.jpg,"a red circle"\n')
    save_clip_folder(tmp_path / "model")
    return tmp_path


FAST = {"concepts/nats.md", "how-to/extend.md", "how-to/gradio.md", "how-to/wandb.md"}
"""Pages whose Python examples run in the fast tests; the others are slow."""


def as_parameter(page: Path) -> Any:
    fast = page.relative_to(ROOT / "docs").as_posix() in FAST
    return pytest.param(page, id=name_of(page), marks=() if fast else pytest.mark.slow)


WITH_EXAMPLES = [as_parameter(page) for page in NEW_PAGES if blocks("python", page.read_text())]


@pytest.mark.parametrize("page", WITH_EXAMPLES)
def test_the_python_examples_run(page: Path, desk: Path) -> None:
    """The examples of a page run in turn, with a small model. What needs another package is only compiled."""
    variables: dict[str, Any] = {"__name__": "example"}
    for example in blocks("python", page.read_text()):
        code = compile(example.replace(HUB_ID, "model"), page.name, "exec")
        if not example.startswith("# needs "):
            exec(code, variables)


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's shell examples, without their comments."""
    lines = [line for block in blocks("bash", page.read_text()) for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


PROGRAMS = {"python", "m2ib-fit", "make", "git", "cd", "pip", "hf"}


@pytest.mark.parametrize("page", NEW_PAGES, ids=name_of)
def test_the_commands_are_valid(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tuned").mkdir()
    Path("tuned/m2ib.yaml").write_text("bottleneck: {steps: 3}\n")
    for program, *words in commands(page):
        assert program in PROGRAMS
        if program == "python":
            assert words.pop(0) == "fit.py"
            assert words == ["--models"] or isinstance(parse(words), Config)
        elif program == "make":
            assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        elif program == "pip":
            groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            assert all(group in groups for group in re.findall(r"\.\[(.+?)\]", " ".join(words)))


ELSEWHERE = {"--models", "data.path=OWNER/NAME", "trainer.devices=8", "trainer.devices=2"}
"""Words of commands that need a network, GPUs or other processes."""

RUN = [
    words[1:] for page in NEW_PAGES for words in commands(page) if words[0] == "python" and not ELSEWHERE & set(words)
]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_commands_run(desk: Path) -> None:
    """The commands run in their order, on few pairs; the files that they need are made here."""
    for folder in ("clip", "FOLDER"):
        save_clip_folder(desk / folder)
    for name in range(24):
        save_photograph(desk / f"{name}.jpg", 64, 48)
    names = [f"{name}.jpg" for name in range(24)]
    pair = '{{"image": "{0}", "caption": "a red circle", "mask": "{0}"}}\n'
    (desk / "pairs.jsonl").write_text("".join(pair.format(name) for name in names))
    (desk / "pairs.csv").write_text("image,caption\n" + "".join(f"{name},a red circle\n" for name in names))
    (desk / "urls.csv").write_text("image,caption\ncat.jpg,a red circle\n")
    (desk / "photos").mkdir()
    save_photograph(desk / "photos" / "cat.jpg", 64, 48)
    (desk / "photos" / "cat.txt").write_text("a red circle")
    (desk / "tuned").mkdir()
    (desk / "tuned" / "m2ib.yaml").write_text("bottleneck: {steps: 3}\n")
    assert len(RUN) > 20
    for number, (_, *words) in enumerate(RUN):
        if "data.image_column=photo" in words:
            (desk / "shop.csv").write_text("photo,title,sku\ncat.jpg,a red circle,7\n")
            words = [word.replace("pairs.csv", "shop.csv") for word in words]
        if "readout" in words or "method.name=readout" in words:
            continue  # a training of minutes, and the maps of its head: tests/finetuning/ has both
        words = [word.replace(HUB_ID, "model").replace("layer=8", "layer=1") for word in words]
        words += ["data.num_workers=0", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
        words += [] if any(word.startswith("output_dir=") for word in words) else [f"output_dir=run-{number}"]
        if "task=tune" in words:
            words = [word for word in words if not word.startswith("output_dir=")]
            words += ["tune.selection_pairs=10", "tune.confirmation_pairs=10", "tune.budget=2"]
            words.append(f"output_dir=tuned-{number}")
        elif "task=finetune" in words:
            words += ["trainer.max_epochs=1", "data.batch_size=4"]
        else:
            words += ["data.limit=2", "evaluate.probed=0", "evaluate.methods=[m2ib, saliency]"]
        assert main(words) == 0, words
