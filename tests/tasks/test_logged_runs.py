"""What a run over pairs logs: curves, gates, pictures, settings; and its progress where there is no terminal."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m2ib_lightning import load_attributions, load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import Modality
from m2ib_lightning.run.callbacks import progress_lines
from tests.logged import csv_of, events_of, hyperparameters_of, scalars_of

FAST = ["--config", "paper", "bottleneck.steps=3", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false"]
FAST += ["data.limit=4", "trainer.accelerator=cpu", "output.tensorboard_images=0"]
NO_PICTURES = "output.heatmaps=0"


def run_scenes(run: Path, *more: str) -> int:
    return main([*FAST, f"output_dir={run}", *more])


def read_rows(run: Path) -> list[dict[str, Any]]:
    return list(load_attributions(run))


def test_curves_and_pictures_reach_tensorboard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress_lines, "SECONDS", 0.0)  # a line for each batch
    run = tmp_path / "run"
    words = ["output.tensorboard_images=2", "data.batch_size=3", "trainer.logger=[tensorboard,csv]"]
    assert run_scenes(run, *words, "trainer.enable_progress_bar=true") == 0
    events, scalars, rows = events_of(run), scalars_of(run), read_rows(run)
    for modality in ("image", "text"):
        for quantity in ("loss", "information", "similarity"):
            name = f"{modality}_{quantity}"
            assert [step for step, _ in scalars[f"pairs/{name}"]] == [3, 4]  # pairs done
            assert [step for step, _ in scalars[f"mean_curve/{name}"]] == [0, 1, 2]
            assert len([tag for tag in scalars if tag.startswith("pair/") and tag.endswith(f"/{name}")]) == 2
        curve = [value for _, value in scalars[f"mean_curve/{modality}_loss"]]
        np.testing.assert_allclose(curve, np.mean([row[f"{modality}_loss"] for row in rows], axis=0), rtol=1e-5)
    means = [np.mean([row["similarity"] for row in rows[:3]]), rows[3]["similarity"]]
    np.testing.assert_allclose([value for _, value in scalars["pairs/similarity"]], means, rtol=1e-5)
    assert scalars["summary/mean_similarity"] == [(4, pytest.approx(np.mean([row["similarity"] for row in rows])))]
    assert set(csv_of(run)) == set(scalars)
    assert len([tag for tag in events.Tags()["images"] if tag.startswith("heatmap/")]) == 2
    assert events.Tags()["tensors"] == ["custom_scalars__config__"]
    settings = hyperparameters_of(run)
    assert (settings["bottleneck.steps"], settings["bottleneck.image.layer"]) == (3, 2)
    printed = capsys.readouterr().out
    assert re.search(r"^Explaining: 3 of 4 pairs, [\d.]+ pairs/s, \d+ s left$", printed, re.MULTILINE)
    assert f"curves       {run}/csv/0001/metrics.csv\n" in printed


@pytest.mark.slow
def test_overlays_are_logged_as_they_form(tmp_path: Path) -> None:
    longer, shorter = (tmp_path / str(steps) for steps in (3, 2))
    words = ["data.limit=2", "data.batch_size=2", NO_PICTURES]
    assert run_scenes(longer, *words, "output.tensorboard_images=1") == 0
    assert run_scenes(shorter, *words, "output.tensorboard_images=1", "bottleneck.steps=2") == 0
    (tag,) = (tag for tag in events_of(longer).Tags()["images"] if tag.startswith("forming/"))
    pictures, fewer = (events_of(run).Images(tag) for run in (longer, shorter))
    assert [picture.step for picture in pictures] == [0, 1, 2]
    shown = [picture.encoded_image_string for picture in pictures]
    assert shown[:2] == [picture.encoded_image_string for picture in fewer]  # step k is the end of a run of k steps
    assert len(set(shown)) == 3


def test_lambda_is_logged_at_each_step_of_the_first_batch(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_scenes(run, "output.tensorboard_images=1", "data.batch_size=2", NO_PICTURES) == 0
    events, towers = events_of(run), load_model("scenes").encoder.towers
    read: dict[Modality, int] = {
        "image": 2 * (1 + 64),
        "text": sum(2 + len(row["tokens"]) for row in read_rows(run)[:2]),
    }
    for modality, tokens in read.items():
        width = towers[modality].width
        steps = events.Histograms(f"lambda/{modality}")
        assert [event.step for event in steps] == [0, 1, 2]
        assert {event.histogram_value.num for event in steps} == {tokens * width}
        start = 1 / (1 + math.exp(-5.0))
        assert steps[0].histogram_value.min == steps[0].histogram_value.max == pytest.approx(start)
        assert steps[2].histogram_value.min < start - 0.01  # two Adam steps of 1.0 close most gates


def test_no_logger_makes_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_scenes(tmp_path / "run", "trainer.logger=none", NO_PICTURES, "data.limit=1") == 0
    assert not {"tensorboard", "csv"} & {path.name for path in (tmp_path / "run").iterdir()}
    assert "curves" not in capsys.readouterr().out


@pytest.mark.slow
def test_tensorboard_pictures_do_not_depend_on_the_files(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert run_scenes(run, "output.heatmaps=0", "output.tensorboard_images=3") == 0
    assert not list((run / "heatmaps").iterdir())
    assert len([tag for tag in events_of(run).Tags()["images"] if tag.startswith("heatmap/")]) == 3
