"""Damaged files of a run or of a model: exit status 2 with a message, and the corrected command runs there."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from m2ib_lightning import M2IBError, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import Config
from m2ib_lightning.finetuning.checkpoint import read_checkpoint
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.models.load import BUNDLED
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.resolved_config import to_yaml
from m2ib_lightning.run.resume import check_same_run
from tests.run.test_files import BAD_YAML, full_disk

QUIET = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.enable_progress_bar=false", "data.num_workers=0"]
TRAINING = [*QUIET, "task=finetune", "data.limit=6", "data.batch_size=4", "trainer.max_epochs=1", "finetune.maps=0"]
TRAINING += ["finetune.train=bottleneck", "finetune.validation=0", "bottleneck.image.prior=data"]
TRAINING += ["bottleneck.image.layer=1", "bottleneck.calibration_pairs=4"]
PAIRS = [*QUIET, "data.limit=3", "bottleneck.steps=1", "bottleneck.noise_samples=1", "output.heatmaps=0"]
PAIRS += ["bottleneck.image.prior=data", "bottleneck.image.layer=1", "bottleneck.calibration_pairs=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert main([*TRAINING, f"output_dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explained") / "run"
    assert main([*PAIRS, f"output_dir={folder}"]) == 0
    return folder


class Code:
    """An object whose pickle makes a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def entry(name: str, value: Any) -> Callable[[Path], object]:
    """A change of one entry of a checkpoint; ``...`` removes it."""

    def write(path: Path) -> None:
        checkpoint = torch.load(path, weights_only=True)
        checkpoint[name] = value
        if value is ...:
            del checkpoint[name]
        torch.save(checkpoint, path)

    return write


def with_moments_of_another_size(path: Path) -> None:
    checkpoint = torch.load(path, weights_only=True)
    for state in checkpoint["optimizer_states"][0]["state"].values():
        state["exp_avg"] = torch.zeros(3, 5)
    torch.save(checkpoint, path)


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


UNREADABLE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "text": lambda path: path.write_text("no checkpoint"),
    "zeros": lambda path: path.write_bytes(bytes(10000)),
    "a folder": as_folder,
    "code": lambda path: path.write_bytes(pickle.dumps(Code(path.parent / "made"))),
    "code in a checkpoint": lambda path: torch.save({"state_dict": Code(path.parent / "made")}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "weights alone": lambda path: torch.save({"state_dict": {"a": torch.zeros(2)}}, path),
    "no loops": entry("loops", ...),
    "a step that is text": entry("global_step", "7"),
    "weights that are numbers": entry("state_dict", {"a": 1}),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_checkpoint_that_is_none(name: str, trained: Path, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    shutil.copy(trained / "checkpoints" / "last.ckpt", path)
    read_checkpoint(path)
    UNREADABLE[name](path)
    with pytest.raises(M2IBError, match=r"can't be resumed from .*last\.ckpt: .* resume=true starts the") as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "made").exists()


CHANGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "a torn checkpoint": ("checkpoints/last.ckpt", UNREADABLE["torn"], "it is torn, or not a checkpoint"),
    "a checkpoint's moments": ("checkpoints/last.ckpt", with_moments_of_another_size, "its state does not fit"),
    "a checkpoint's loops": ("checkpoints/last.ckpt", entry("loops", {"fit_loop": 7}), "its state does not fit"),
    "training.json": ("training.json", lambda path: path.write_text("[1]"), "training.json could not be read"),
    "config.yaml": ("config.yaml", lambda path: path.write_bytes(b"\xff\xfe"), "must be text in UTF-8"),
}


def test_a_checkpoint_names_no_file_to_remove(trained: Path, tmp_path: Path) -> None:
    """Lightning removes the file that a checkpoint names as the one before, also where the name leads elsewhere."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    (tmp_path / "precious").mkdir()
    path = run / "checkpoints" / "last.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    states = [state for state in checkpoint["callbacks"].values() if "last_model_path" in state]
    assert states
    for state in states:
        state["dirpath"] = str(path.parent)
        state["last_model_path"] = f"{path.parent}/../../precious"
    checkpoint["callbacks"] |= {
        key.replace("LastCheckpoint", "ModelCheckpoint"): states[0] for key in checkpoint["callbacks"]
    }
    torch.save(checkpoint, path)
    facts = json.loads((run / "training.json").read_text())
    (run / "training.json").write_text(json.dumps(facts | {"max_epochs": 2}))
    assert main([*TRAINING, f"output_dir={run}", "resume=true", "trainer.max_epochs=2"]) == 0
    assert (tmp_path / "precious").exists()


FAST_CHANGES = ("a torn checkpoint", "a checkpoint's moments")


@pytest.mark.parametrize(
    "name", [name if name in FAST_CHANGES else pytest.param(name, marks=pytest.mark.slow) for name in CHANGES]
)
def test_a_damaged_file_of_a_training(
    name: str, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once the good file is there again, the command that was refused does the rest."""
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    file, change, message = CHANGES[name]
    change(run / file)
    words = [*TRAINING, f"output_dir={run}", "resume=true"]
    # a run that is over does no step, in which moments of another size would be noticed
    more = {"a checkpoint's moments": ["trainer.max_epochs=2"]}.get(name, [])
    if more:
        facts = json.loads((run / "training.json").read_text())
        (run / "training.json").write_text(json.dumps(facts | {"max_epochs": 2}))
    assert main([*words, *more]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "weights_only" not in error
    if (run / file).is_dir():
        (run / file).rmdir()
    shutil.copy(trained / file, run / file)
    if name == "a torn checkpoint":
        assert main(words) == 0


@pytest.mark.parametrize(
    ("damage", "task"),
    [
        ("torn", "finetune"),
        *(pytest.param(damage, "attribute", marks=pytest.mark.slow) for damage in ("torn", "empty", "text")),
    ],
)
def test_torn_statistics_are_measured_again(
    damage: str, task: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good: Path = request.getfixturevalue("trained" if task == "finetune" else "explained")
    run = tmp_path / "run"
    shutil.copytree(good, run)
    UNREADABLE[damage](run / "statistics.safetensors")
    words = TRAINING if task == "finetune" else PAIRS
    assert main([*words, f"output_dir={run}", "resume=true"]) == 0
    assert "They are measured again" in capsys.readouterr().err
    assert (run / "statistics.safetensors").read_bytes() == (good / "statistics.safetensors").read_bytes()


CONFIGURATIONS = {
    "a list": b"- a\n",
    "deep": b"a: " + b"[" * 5000 + b"]" * 5000,
    "text for a group": b"data: text\ntrainer: {}\n",
    "a list for the trainer": b"trainer: [1]\n",
    "an interpolation": b"data: ${nowhere}\n",
    "not UTF-8": b"\xff\xfe",
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_damaged_configuration_of_a_run(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes(CONFIGURATIONS[name])
    with pytest.raises(M2IBError, match=r"resume=true: .*config\.yaml .* choose another output_dir"):
        check_same_run(RunDirectory(tmp_path), to_yaml(Config()))


@pytest.mark.slow
def test_a_damaged_part_of_a_table(explained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    shutil.copytree(explained, run)
    (part,) = (run / "attributions").glob("*.parquet")
    UNREADABLE["torn"](part)
    words = [*PAIRS, f"output_dir={run}", "resume=true"]
    assert main(words) == 2
    assert "could not be read as a part of the table" in capsys.readouterr().err
    part.rename(tmp_path / "away.parquet")
    assert main(words) == 0
    assert json.loads((run / "summary.json").read_text())["pairs_done"] == 3


@pytest.mark.parametrize(
    "at",
    [*(pytest.param(at, marks=pytest.mark.slow) for at in ("statistics", "model")), "checkpoint"],
)
def test_a_full_disk_ends_a_training_with_a_message_and_the_command_does_the_rest(
    at: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the first checkpoint the corrected command may have another batch, too."""
    words = [*TRAINING, f"output_dir={tmp_path / 'run'}", "resume=true"]
    with full_disk({"statistics": 500, "checkpoint": 9000, "model": 1_000_000}[at]):
        assert main(words) == 2
    assert "reading or writing failed: " in capsys.readouterr().err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() == (at == "model")
    assert not (tmp_path / "run" / "model").exists()
    assert main([*words, *([] if at == "model" else ["data.batch_size=3"])]) == 0
    assert (tmp_path / "run" / "model" / "config.json").exists()
    assert not list((tmp_path / "run").rglob(".*.tmp"))


PRESETS = {name: BAD_YAML[name] for name in ("nothing", "not UTF-8", "deep lists")} | {
    "text": (b"bottleneck: text\n", "must have 'bottleneck:' with lines like"),
    "a list": (b"bottleneck: [1]\n", "must have 'bottleneck:' with lines like"),
    "no group": (b"steps: 10\n", "must have 'bottleneck:' with lines like"),
    "a bomb": (b"a: &a [1, 1]\nb: &b [*a, *a]\nbottleneck: {steps: *b}\n", "has an alias"),
    "a list for a number": (b"bottleneck: {steps: [1]}\n", "bottleneck.steps must be a number, a word"),
    "text for a tower": (b"bottleneck: {image: far}\n", "bottleneck.image must be a mapping"),
    "text for a number": (b"bottleneck: {steps: ten}\n", "steps must be a whole number"),
    "a group in a tower": (b"bottleneck: {image: {layer: {a: 1}}}\n", "bottleneck.image must be a number, a word"),
    "an unknown key": (b"bottleneck: {step: 10}\n", "Did you mean 'steps'"),
    "a number as key": (b"bottleneck: {1: 10}\n", r"m2ib\.yaml"),
    "a layer that is a date": (b"bottleneck: {image: {layer: 2001-01-01}}\n", "layer must be a whole number"),
}


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_that_is_none(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["scenes"], folder)
    content, message = PRESETS[name]
    (folder / "m2ib.yaml").write_bytes(content)
    with pytest.raises(M2IBError, match=message) as caught:
        load_model(str(folder))
    assert "m2ib.yaml" in str(caught.value)


def test_a_preset_may_have_numbers_of_yaml_1_2(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["scenes"], folder)
    (folder / "m2ib.yaml").write_text("# mine\nbottleneck:\n  lr: 1e-3\n  image: {beta: 5e-2}\n  text:\n")
    assert load_model(str(folder)).preset == BottleneckSettings().override({"lr": 1e-3, "image": {"beta": 0.05}})
