"""``task=ground`` from the command line to the run directory: units in rows, pictures, ranks and a resumed run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from m2ib_lightning import Grounding, load_attributions
from m2ib_lightning.cli import main
from m2ib_lightning.run.differences import differences
from tests.folders import save_clip_folder, save_photograph
from tests.ranks import run_on_ranks

FAST = ["bottleneck.steps=3", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false", "data.num_workers=0"]
CAPTIONS = ("a red circle and a small star", "ring", "", "the blue square, a green ring and a white star")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip_folder(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pairs")
    rows = ["image,caption"]
    for index, caption in enumerate(CAPTIONS):
        save_photograph(place / f"{index}.png", 40 + 10 * index, 50)
        rows.append(f'{index}.png,"{caption}"')
    (place / "pairs.csv").write_text("\n".join(rows) + "\n")
    return place / "pairs.csv"


def run_ground(folder: Path, table: Path, run: Path, *more: str) -> int:
    return main(words_of(folder, table, run, *more))


def words_of(folder: Path, table: Path, run: Path, *more: str) -> list[str]:
    return ["task=ground", f"model.name={folder}", f"data.path={table}", f"output_dir={run}", *FAST, *more]


@pytest.fixture(scope="module")
def finished(folder: Path, table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ground") / "run"
    assert run_ground(folder, table, run) == 0
    return run


def test_each_row_holds_the_units_of_its_caption(finished: Path) -> None:
    rows = load_attributions(finished).to_list()
    units = [[row["caption"][start:end] for start, end in row["unit_spans"] or ()] for row in rows]
    assert units == [["red circle", "small star"], [], [], ["blue square", "green ring", "white star"]]
    assert rows[2]["error"] is not None
    assert rows[1]["unit_saliency"] == []
    for row in (rows[0], rows[3]):
        grounding = Grounding.from_row(row)
        assert grounding.maps.shape == (len(row["unit_spans"]), row["grid_height"], row["grid_width"])
        assert (grounding.maps > 0).all()
        assert len({m.tobytes() for m in grounding.maps}) == len(grounding.units)
    assert json.loads((finished / "summary.json").read_text())["pairs_done"] == 3
    assert len(list((finished / "heatmaps").glob("*.jpg"))) == 3


@pytest.mark.slow
def test_ranks_and_a_resumed_run_give_the_same_units(folder: Path, table: Path, finished: Path, tmp_path: Path) -> None:
    assert run_on_ranks(words_of(folder, table, tmp_path / "two")) == [0, 0]
    assert run_ground(folder, table, tmp_path / "parts", "data.limit=1") == 0
    assert run_ground(folder, table, tmp_path / "parts", "resume=true") == 0
    for run in ("two", "parts"):
        assert differences(finished, tmp_path / run, 1e-4) == []
    other = tmp_path / "other"
    assert run_ground(folder, table, other, "seed=1") == 0
    assert any("unit_saliency" in line for line in differences(finished, other, 1e-4))


def test_a_run_of_other_units_is_not_continued(
    folder: Path, table: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_ground(folder, table, finished, "ground.units=words", "resume=true") == 2
    assert "ground.units" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["ground.units=phrase"], "ground.units must be 'phrases'"),
        (["ground.target=contrast"], "ground.target=contrast and against=None do not go together"),
        (["ground.target=contrasts"], "ground.target must be difference, alone, contrast"),
    ],
)
def test_mistakes(
    folder: Path, table: Path, tmp_path: Path, keys: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_ground(folder, table, tmp_path / "run", *keys) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
