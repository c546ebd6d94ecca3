"""``task=tune``: its files are the same each time and are read back, bad rows do not stop it, and mistakes are said."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from m2ib_lightning import load_model
from m2ib_lightning.cli import main
from m2ib_lightning.datamodules.scenes import SceneSource
from tests.folders import save_clip_folder

QUICK = ["task=tune", "bottleneck.steps=1", "bottleneck.noise_samples=1", "data.num_workers=0"]
SMALL = [*QUICK, "tune.selection_pairs=4", "tune.confirmation_pairs=3", "tune.budget=3"]


def summary_of(run: Path) -> Any:
    return json.loads((run / "summary.json").read_text(), parse_constant=lambda text: pytest.fail(text))


def save_scenes(folder: Path, count: int) -> Path:
    """Save scenes as pictures and a table without ground truth, whose second row has no picture."""
    source = SceneSource(21, count)
    path = folder / "pairs.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "caption"])
        for index in range(count):
            pair = source[index]
            pair.image.save(folder / f"{index}.png")  # type: ignore[union-attr]
            writer.writerow([f"{index}.png" if index != 1 else "gone.png", pair.caption])
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model without a preset."""
    return save_clip_folder(tmp_path_factory.mktemp("model") / "<b>model", blocks=2)


DATA = [f"bottleneck.{m}.{key}" for m in ("image", "text") for key in ("layer=0", "prior=data")]


@pytest.fixture(scope="module")
def done(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in which layer and prior are given."""
    run = tmp_path_factory.mktemp("tune") / "run"
    assert main([*SMALL, *DATA, f"model.name={folder}", f"output_dir={run}"]) == 0
    return run


def test_the_run_directory(done: Path) -> None:
    names = {path.name for path in done.iterdir()}
    assert names == {"config.yaml", "m2ib.yaml", "m2ib_statistics.safetensors", "report.html", "summary.json"}
    summary = summary_of(done)
    assert (summary["selection_pairs"], summary["confirmation_pairs"], summary["pairs_failed"]) == (4, 3, 0)
    assert summary["trials"] == 3
    for tower, score in (("image", "average precision"), ("text", "AUROC")):
        assert summary[tower]["score"] == score
        assert len(summary[tower]["tried"]) == 3
        assert set(summary[tower]["compared"]) == {"published", "present preset", "best found"}
        assert "too few to compare" in summary[tower]["reason"] or "nothing better" in summary[tower]["reason"]
        given = {(each["settings"]["layer"], each["settings"]["prior"]) for each in summary[tower]["tried"]}
        assert given == {(0, "data")}  # the user's own keys keep their values


def test_the_report_escapes_its_text(done: Path) -> None:
    page = (done / "report.html").read_text()
    assert page.count("<h3>3 settings tried</h3>") == 2
    assert "present preset (chosen)" in page
    assert "<b>model" not in page
    assert "&lt;b&gt;model" in page


@pytest.mark.slow
def test_the_same_pairs_and_seed_give_the_same_preset(folder: Path, done: Path, tmp_path: Path) -> None:
    words = [*SMALL, *DATA, f"model.name={folder}", "data.batch_size=3", f"output_dir={tmp_path / 'run'}"]
    assert main(words) == 0
    assert (tmp_path / "run" / "m2ib.yaml").read_bytes() == (done / "m2ib.yaml").read_bytes()
    one, other = (load_file(run / "m2ib_statistics.safetensors") for run in (done, tmp_path / "run"))
    assert one.keys() == other.keys()
    for name, tensor in one.items():  # another batch size changes the last bits of float32
        assert torch.allclose(tensor, other[name], rtol=0, atol=1e-6), name


def test_the_files_are_read_from_a_model_folder_and_as_a_config(folder: Path, done: Path, tmp_path: Path) -> None:
    copied, run = tmp_path / "model", tmp_path / "run"
    shutil.copytree(folder, copied)
    for name in ("m2ib.yaml", "m2ib_statistics.safetensors"):
        shutil.copy(done / name, copied / name)
    model = load_model(str(copied))
    assert (model.preset.image.layer, model.preset.text.prior, model.preset.steps) == (0, "data", 1)
    assert set(model.statistics.priors) == {"image.0", "text.0"}  # measured on the pairs of the search
    words = ["--config", str(done / "m2ib.yaml"), f"bottleneck.statistics={done / 'm2ib_statistics.safetensors'}"]
    assert main([*words, f"model.name={folder}", "data.limit=1", "output.heatmaps=0", f"output_dir={run}"]) == 0
    assert "steps: 1" in (run / "config.yaml").read_text()


@pytest.mark.slow
def test_a_table_without_truth_and_with_a_bad_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, run = save_scenes(tmp_path, 6), tmp_path / "run"
    words = ["tune.selection_pairs=3", "tune.confirmation_pairs=2", "tune.budget=2", "bottleneck.image.layer=2"]
    assert main([*SMALL, f"data.path={path}", *words, f"output_dir={run}"]) == 0
    printed = capsys.readouterr().out
    assert "3 pairs to choose on, 2 to compare on (1 could not be read)" in printed
    assert "image: 2 settings tried on 3 pairs by faithfulness (no ground truth)" in printed
    assert "removing all words lowers the cosine by less than 0.05" in printed  # true of most scenes
    assert "copy m2ib.yaml and m2ib_statistics.safetensors into the model's folder" in printed
    assert "gone.png" in (run / "report.html").read_text()
    summary = summary_of(run)
    assert summary["pairs_failed"] == 1
    assert {"image_insertion_raw", "image_same"} < summary["image"]["tried"][0].keys()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tune.selection_pairs=0"], "tune.selection_pairs must be at least 1, got 0"),
        (["tune.confirmation_pairs=0"], "tune.confirmation_pairs must be at least 1"),
        (["tune.budget=0"], "tune.budget must be at least 1"),
        (["tune.layers=0"], "tune.layers must be at least 1"),
        (["tune.betas=[0.1, -1]"], "tune.betas must not be negative, got -1"),
        (["tune.betas=[]"], "tune.betas must name at least one value"),
        (["resume=true"], "task=tune can't be resumed"),
        (["model.compile=true"], "every setting would be compiled anew"),
        (["method.name=rise"], "task=tune chooses settings of method.name=m2ib, got 'rise'"),
        (["trainer.devices=2", "trainer.accelerator=cpu"], "task=tune runs on one device, got 2 ranks"),
        (["data.limit=1"], "task=tune needs pairs of at least two pictures"),
        (["bottleneck.image.granularity=tokens"], "granularity must be one of element, token"),
    ],
)
def test_a_mistake_is_reported_before_the_directory_is_made(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, *words, f"output_dir={tmp_path / 'run'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_model_that_gives_nan_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_clip_folder(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"].fill_(torch.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert main([*SMALL, f"model.name={folder}", f"output_dir={tmp_path / 'run'}"]) == 2
    assert "NaN" in capsys.readouterr().err
    assert not (tmp_path / "run" / "m2ib.yaml").exists()


def test_another_run_is_not_overwritten(folder: Path, done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (done / "m2ib.yaml").read_bytes()
    assert main([*SMALL, f"model.name={folder}", f"output_dir={done}"]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert (done / "m2ib.yaml").read_bytes() == before


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_preset_of_the_bundled_model_is_at_least_as_good_as_the_shipped_one_on_fresh_scenes(tmp_path: Path) -> None:
    """Both presets are scored on scenes of a third seed: not those of the search, nor those of the shipped choice."""
    run = tmp_path / "run"
    sizes = ["tune.selection_pairs=40", "tune.confirmation_pairs=60"]
    assert main(["task=tune", "seed=5", *sizes, f"output_dir={run}"]) == 0
    statistics = run / "m2ib_statistics.safetensors"
    scores = []
    for folder, words in (("shipped", []), ("tuned", ["--config", str(run / "m2ib.yaml")])):
        words = [*words, *([f"bottleneck.statistics={statistics}"] if words and statistics.exists() else [])]
        path = tmp_path / folder
        evaluate = ["task=evaluate", "seed=7", "data.limit=100", "evaluate.methods=[m2ib]"]
        evaluate += ["evaluate.metrics=[localisation]", "evaluate.pictures=0"]
        assert main([*words, *evaluate, f"output_dir={path}"]) == 0
        scores.append(summary_of(path)["methods"]["m2ib"])
    shipped, tuned = scores
    for measure in ("image_ap", "text_auroc"):
        error = (shipped[measure]["high"] - shipped[measure]["low"]) / 4  # a standard error; the scenes are the same
        assert tuned[measure]["mean"] >= shipped[measure]["mean"] - error
