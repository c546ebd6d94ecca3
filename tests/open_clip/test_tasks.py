"""OpenCLIP's models from the command line: ``attribute``, ``evaluate`` and one step of ``finetune``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from m2ib_lightning import load_model
from m2ib_lightning.cli import main
from tests.folders import save_photograph

open_clip: Any = pytest.importorskip("open_clip", reason="make test-open-clip installs OpenCLIP")

FAST = ["trainer.enable_progress_bar=false", "data.num_workers=0", "output.tensorboard_images=0"]
FAST += ["bottleneck.steps=3", "bottleneck.noise_samples=2", "output.heatmaps=0"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = []
    for index, caption in enumerate(("a red star", "the blue circle next to a green square", "star")):
        save_photograph(tmp_path / f"{index}.png", 60, 40 + 10 * index)
        rows.append(f"{index}.png,{caption}\n")
    (tmp_path / "pairs.csv").write_text("image,caption\n" + "".join(rows))
    return tmp_path / "pairs.csv"


@pytest.mark.parametrize("name", ["vit", "vit-bert", "eva"])
def test_the_three_tasks_run(
    name: str, member: Callable[[str], Path], table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = f"open_clip:local-dir:{member(name)}"
    common = [f"model.name={given}", f"data.path={table}"]
    runs = {task: table.parent / task for task in ("attribute", "evaluate", "finetune")}
    assert main([*common, *FAST, "task=attribute", f"output_dir={runs['attribute']}"]) == 0
    methods = ["evaluate.methods=[m2ib,gradcam]", "evaluate.probed=0"]
    assert main([*common, *FAST, "task=evaluate", *methods, f"output_dir={runs['evaluate']}"]) == 0
    assert capsys.readouterr().out.count("3 pairs explained") == 2
    training = ["trainer.max_epochs=1", "data.batch_size=3", "finetune.validation=0", FAST[0], FAST[1]]
    assert main([*common, *training, "task=finetune", f"output_dir={runs['finetune']}"]) == 0
    trained, before = load_model(str(runs["finetune"] / "model")), load_model(given)
    assert trained.preset == before.preset
    plain = open_clip.create_model(f"local-dir:{runs['finetune'] / 'model'}") if name == "vit" else None
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        first, second = (model.encoder.model.encode_image(pixels, normalize=False) for model in (before, trained))
        assert not torch.equal(first, second)
        assert plain is None or torch.equal(second, plain.eval().encode_image(pixels))
