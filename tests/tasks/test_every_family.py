"""Every family through the command: maps, an evaluation with other methods, one step of training, and its folder."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning import load_attributions, load_model
from m2ib_lightning.cli import main
from tests.equality import relative_difference
from tests.zoo import MEMBERS, make_member

CAPTIONS = ("a red circle", "a blue star and a green square", "red")
METHODS = "[m2ib,gradcam,'rise:samples=4',occlusion]"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three pairs whose pictures have different proportions."""
    folder = tmp_path_factory.mktemp("pairs")
    rng = np.random.default_rng(0)
    rows = [["image", "caption"]]
    for index, (caption, shape) in enumerate(zip(CAPTIONS, ((40, 60, 3), (30, 30, 3), (70, 30, 3)), strict=True)):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(folder / f"{index}.png")
        rows.append([f"{index}.png", caption])
    with (folder / "pairs.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return folder / "pairs.csv"


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMBERS)
def test_a_folder_goes_through_every_task(name: str, table: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    member = make_member(name)
    member.model.save_pretrained(folder)
    member.processor.save_pretrained(folder)
    keys = [f"model.name={folder}", "data.name=captions", f"data.path={table}", "data.num_workers=0"]
    keys += ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "bottleneck.steps=2"]

    assert main([*keys, f"output_dir={tmp_path / 'attribute'}"]) == 0
    rows = load_attributions(tmp_path / "attribute").to_list()
    assert [row["error"] for row in rows] == [None] * 3

    assert main([*keys, "task=ground", f"output_dir={tmp_path / 'ground'}"]) == 0
    grounded = load_attributions(tmp_path / "ground").to_list()
    assert [len(row["unit_saliency"]) for row in grounded] == [1, 2, 0]
    for row, whole in zip(grounded, rows, strict=True):
        assert relative_difference(np.array(row["image_saliency"]), np.array(whole["image_saliency"])) < 1e-4

    evaluate = ["task=evaluate", f"evaluate.methods={METHODS}", "evaluate.metrics=[confidence,curves]"]
    assert main([*keys, *evaluate, f"output_dir={tmp_path / 'evaluate'}"]) == 0
    assert "rise" in (tmp_path / "evaluate" / "table.md").read_text()

    finetune = ["task=finetune", "trainer.max_epochs=1", "data.batch_size=3", "finetune.validation=0"]
    assert main([*keys, *finetune, f"output_dir={tmp_path / 'finetune'}"]) == 0
    trained = load_model(str(tmp_path / "finetune" / "model"))
    assert type(trained.encoder.model) is type(member.model)
