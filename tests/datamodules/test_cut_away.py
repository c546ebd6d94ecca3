"""How much of the truth the crop cuts away is counted, printed and on the page, over all ranks."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from m2ib_lightning.cli import main
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.truth import Truth
from m2ib_lightning.run.counts import Counts
from tests import ROOT
from tests.datamodules.annotated import BOX, evaluate, model_folder, save_pictures
from tests.run.pages import PageReader

ROWS = [BOX, [20, 0, 40, 10], [0, 0, 20, 20], [100, 10, 20, 20], None]
"""The crop is columns 30 to 90 of 120: whole, a quarter away, all away, all away, and no box."""

KEYS = ("pairs_with_truth", "truth_partly_cut_away", "truth_wholly_cut_away")


@pytest.mark.parametrize(
    ("box", "crop", "share"),
    [
        ((20, 0, 60, 10), (30, 0, 90, 60), 0.25),
        ((30, 0, 90, 60), (30, 0, 90, 60), 0.0),
        ((0, 0, 30, 60), (30, 0, 90, 60), 1.0),
        ((90, 0, 120, 60), (30, 0, 90, 60), 1.0),
        ((0, 0, 120, 60), (0, -30, 120, 90), 0.0),  # padded: the model sees more than the picture
        ((0, 50, 10, 60), (-10, 0, 5, 55), 0.75),
        ((0, 0, 0, 0), (30, 0, 90, 60), None),
    ],
)
def test_the_share_by_hand(
    box: tuple[int, int, int, int], crop: tuple[int, int, int, int], share: float | None
) -> None:
    mask = np.zeros((60, 120), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    pair = Pair("a:0", "a", "a.png", "x", image_size=(120, 60), crop=crop, truth=Truth(mask, None, []))
    assert pair.share_cut_away == share
    assert replace(pair, truth=None).share_cut_away is None
    count = Counts.of_truth(pair)
    assert (count.marked, count.partly_cut, count.wholly_cut) == (
        int(share is not None),
        int(share in (0.25, 0.75)),
        int(share == 1),
    )


def test_the_counts_of_an_earlier_version_are_read() -> None:
    before = json.loads(Counts(done=2, drawn=1).to_json())
    for name in ("marked", "partly_cut", "wholly_cut"):
        del before[name]
    assert Counts.from_json(json.dumps(before)) == Counts(done=2, drawn=1)


def table(folder: Path) -> Path:
    save_pictures(folder, "a.png")
    path = folder / "pairs.jsonl"
    rows = [{"image": "a.png", "caption": f"a cat {k}", "box": box} for k, box in enumerate(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def counted(run: Path) -> list[int]:
    summary = json.loads((run / "summary.json").read_text())
    return [summary[key] for key in KEYS]


LINE = (
    "4 pairs with boxes or masks: the crop cuts away a part of them in 1, and all of them in 2; data.fit=pad shows "
    "the whole picture."
)


def words_of(folder: Path) -> list[str]:
    return [f"model.name={model_folder()}", f"data.path={table(folder)}", "data.box_column=box", "method.name=saliency"]


def test_an_attribution_counts_what_is_cut_away(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*words_of(tmp_path), "trainer.enable_progress_bar=false", "output.tensorboard_images=0"]
    words += ["data.num_workers=0", "output.heatmaps=0"]
    assert main([*words, f"output_dir={tmp_path / 'run'}"]) == 0
    assert LINE in capsys.readouterr().out
    assert counted(tmp_path / "run") == [4, 1, 2]
    page = PageReader(tmp_path / "run" / "report.html")
    assert page.head["summary"]["truth_partly_cut_away"] == 1
    marked = [row for row in page.rows if "truth" in row]
    assert [row["hit"] is None for row in marked] == [row["cut"] == 1 for row in marked]
    assert [row["cut"] for row in marked].count(1) == 2
    assert main([*words, f"output_dir={tmp_path / 'padded'}", "data.fit=pad"]) == 0
    assert "4 pairs with boxes or masks: the crop cuts away a part of them in 0, and all of them in 0." in (
        capsys.readouterr().out
    )
    assert counted(tmp_path / "padded") == [4, 0, 0]


@pytest.mark.slow
def test_an_evaluation_counts_likewise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = evaluate(tmp_path / "run", f"data.path={table(tmp_path)}", "data.box_column=box")
    assert "(2 pairs, not defined for up to 2 more)" in written
    assert LINE in capsys.readouterr().out
    assert counted(tmp_path / "run") == [4, 1, 2]


@pytest.mark.slow
def test_ranks_add_their_counts(tmp_path: Path) -> None:
    words = [*words_of(tmp_path), "trainer.devices=2", "trainer.accelerator=cpu", f"output_dir={tmp_path / 'run'}"]
    done = subprocess.run([sys.executable, str(ROOT / "fit.py"), *words], capture_output=True, text=True, check=True)
    assert LINE in done.stdout
    assert counted(tmp_path / "run") == [4, 1, 2]
