"""A run as a data set: ``m2ib-fit export``, and ``load_attributions(run, pictures=True)``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from m2ib_lightning import load_attributions
from m2ib_lightning.cli import main as fit
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.run.parts import to_record_batch
from tests.tasks.four_pairs import SIZE, save_run
from tests.tasks.test_maps_to_masks import with_rows


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run over four pairs, one more failed."""
    return save_run(tmp_path)


def load(folder: Path, cache: Path) -> Any:
    return datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(cache))


def test_datasets_reads_the_export(run: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "out" / "set"
    before = {path for path in tmp_path.rglob("*")}
    assert fit(["export", str(run), str(folder)]) == 0
    assert {path for path in tmp_path.rglob("*") if folder not in (path, *path.parents)} == before | {folder.parent}
    printed = capsys.readouterr().out
    assert f"5 rows, 4 heatmaps and 3 pictures in {folder}\n1 pictures have no file here" in printed
    assert "1 rows are of pairs that failed" in printed
    table = load(folder, tmp_path / "cache")
    assert table["key"] == [f"t.csv:{n}" for n in range(5)]
    assert table["caption"] == [*(f"caption {n}" for n in range(4)), None]
    assert table["similarity"] == [0.25] * 4 + [None]
    assert table["error"] == [None] * 4 + ["no image"]
    assert [picture and picture.size for picture in table["image"]] == [SIZE, SIZE, SIZE, None, None]
    heatmap = Attribution.from_row(load_attributions(run)[3]).image_heatmap
    np.testing.assert_array_equal(np.asarray(table[3]["heatmap"]), np.round(heatmap * 255))
    assert table[4]["heatmap"] is None


def test_an_export_without_pictures_has_the_heatmaps(run: Path, tmp_path: Path) -> None:
    rows = [row | {"image": f"scenes://0/{n}", "id": "../../x\n"} for n, row in enumerate(load_attributions(run))]
    copy = with_rows(tmp_path / "copy", rows[:2])
    assert fit(["export", str(copy), str(tmp_path / "set")]) == 0
    table = load(tmp_path / "set", tmp_path / "cache")
    assert "image" not in table.column_names
    assert table["picture"] == ["scenes://0/0", "scenes://0/1"]
    assert table["id"] == ["../../x\n"] * 2
    assert table[1]["heatmap"].size == SIZE


@pytest.mark.parametrize("full", ["set", "file"])
def test_a_folder_with_files_is_not_written_to(run: Path, tmp_path: Path, full: str, capsys: Any) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    assert fit(["export", str(run), str(tmp_path / full)]) == 2
    assert ("must be new or empty" if full == "set" else "could not make the folder") in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["notes.txt"]


def test_pictures_are_a_column(run: Path, tmp_path: Path) -> None:
    table = load_attributions(run, pictures=True)
    assert table.column_names == [*to_record_batch([]).schema.names, "picture"]
    assert isinstance(table.features["picture"], datasets.Image)
    assert [picture and picture.size for picture in table["picture"]] == [SIZE, SIZE, SIZE, None, None]
    data = run.parent / "data"
    (data / "left.png").write_bytes(b"no picture any more")  # files are opened when a row is read
    table = load_attributions(run, ["key"], pictures=True)
    assert table.column_names == ["key", "picture"]
    assert table[2]["picture"].size == SIZE
    with pytest.raises(Image.UnidentifiedImageError):
        table[0]
    empty = load_attributions(run, ["key"], pictures=True, image_root=tmp_path)
    assert empty["picture"] == [None] * 5
    (data / "scan.dcm").write_bytes(b"")
    copy = with_rows(tmp_path / "dicom", [{"key": "a:0", "id": "a", "image": "scan.dcm", "error": "x"}])
    assert load_attributions(copy, pictures=True, image_root=data)["picture"] == [None]
