"""No default explains something else than the user meant without saying so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning import explain, load_attributions, load_model
from m2ib_lightning.cli import main, parse
from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError

QUICK = ["bottleneck.steps=1", "bottleneck.noise_samples=1", "trainer.enable_progress_bar=false", "output.heatmaps=0"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name, side in (("a.png", 96), ("b.png", 64)):
        Image.new("RGB", (side, side), "red").save(tmp_path / name)
    path = tmp_path / "pairs.csv"
    path.write_text("image,caption\na.png,a red circle\nb.png,a blue star\n")
    return path


def test_a_path_means_captions_and_the_toy_model_is_mentioned(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main([f"data.path={table}", f"output_dir={run}", *QUICK]) == 0
    assert load_attributions(run)["key"] == ["pairs.csv:0", "pairs.csv:1"]
    assert "name: captions" in (run / "config.yaml").read_text()
    assert "'scenes'" not in capsys.readouterr().out
    assert main([f"data.path={table}", f"output_dir={run}", "data.name=captions", "resume=true", *QUICK]) == 0
    assert "the bundled toy model, which knows synthetic scenes" in capsys.readouterr().err


def test_without_a_path_the_scenes_are_explained() -> None:
    config = parse([])
    assert isinstance(config, Config)
    assert config.data.name == Config().data.source == "scenes"


@pytest.mark.parametrize("task", ["attribute", "evaluate", "finetune", "tune"])
@pytest.mark.parametrize("name", ["scenes", "scene-course"])
def test_a_source_that_paints_refuses_a_path(
    name: str, task: str, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"data.name={name}", f"data.path={table}", f"task={task}", f"output_dir={tmp_path / 'run'}"]
    assert main(words) == 2
    assert f"data.name={name} paints its own pictures and reads no data.path" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--config", "demo", "--config", "paper"], ["--config=demo", "--config", "demo"]])
def test_a_second_config_is_refused(words: list[str]) -> None:
    with pytest.raises(M2IBError, match="--config is given twice"):
        parse(words)


def picture(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), "red")


@pytest.mark.parametrize(
    "image",
    [
        picture(640, 480),
        np.zeros((96, 64, 3), np.uint8),
        [picture(64, 64), picture(65, 64)],
        "a.png",
    ],
)
def test_explain_needs_a_model_for_pictures_that_are_not_scenes(
    image: Any, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(table.parent)
    with pytest.raises(M2IBError, match=r"explain\(\) needs model= .* a hub id such as .* processor="):
        explain(image, "a red circle")
    named = explain(image, "a red circle", model="scenes", bottleneck={"steps": 1})
    assert named


@pytest.mark.parametrize("image", [picture(64, 64), np.zeros((64, 64, 3), np.uint8), "b.png"])
def test_explain_takes_the_bundled_model_for_scenes(image: Any, table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(table.parent)
    assert explain(image, "a red circle", bottleneck={"steps": 1}).error is None


@pytest.mark.parametrize(
    ("caption", "unknown"),
    [
        ("a red circle", 0),
        ("the red elephant", 7),
        ("a photograph of a star", 8),
        ("xyz", 3),
        ("a red circle and a b", 0),
        ("grün", 5),
    ],
)
def test_words_outside_the_vocabulary_count_even_if_their_letters_are_known(caption: str, unknown: int) -> None:
    preparer = load_model("scenes").preparer
    tokenised = preparer.tokenizer(caption)
    assert tokenised.unknown == unknown
