"""``trainer.strategy=fsdp``: ranks that have shares of the weights train what one rank with all of them does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel

from m2ib_lightning.cli import main
from m2ib_lightning.finetuning.folder import BOTTLENECK_FILE
from tests import ROOT
from tests.finetuning.test_finetune_extras import table as table  # a fixture
from tests.tasks.test_finetune_task import STOPS, assert_same_weights

WORDS = ["task=finetune", "trainer.enable_progress_bar=false", "finetune.warmup=2", "finetune.lr=1e-4"]
WORDS += ["data.limit=16", "trainer.precision=64-true", "trainer.max_epochs=2", "finetune.maps=0"]
SHARDED = ["trainer.devices=2", "trainer.strategy=fsdp", "data.batch_size=2"]
ALONE = ["trainer.devices=1", "data.batch_size=4"]


def on_two_ranks(program: Path, folder: Path, *words: str) -> int:
    command = [sys.executable, str(program), *WORDS, *SHARDED, f"output_dir={folder}", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=folder.parent, timeout=300).returncode


KINDS = {
    "adapters, clipped": ["finetune.train=lora", "trainer.gradient_clip_val=0.1"],
    "a frozen model": ["finetune.train=bottleneck", "finetune.mask=readout"],
    "accumulated": ["finetune.train=last:1", "trainer.accumulate_grad_batches=2"],
    "without a bottleneck": ["bottleneck.enabled=false"],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_shares_give_the_weights_of_one_rank(kind: str, tmp_path: Path) -> None:
    assert main([*WORDS, *ALONE, *KINDS[kind], f"output_dir={tmp_path / 'alone'}"]) == 0
    assert on_two_ranks(ROOT / "fit.py", tmp_path / "sharded", *KINDS[kind]) == 0
    if kind == "without a bottleneck":
        alone, sharded = (CLIPModel.from_pretrained(tmp_path / n / "model").state_dict() for n in ("alone", "sharded"))
        assert alone.keys() == sharded.keys()
        assert all(torch.allclose(value, sharded[name], atol=1e-5) for name, value in alone.items())
        assert not (tmp_path / "sharded" / "model" / BOTTLENECK_FILE).exists()
    else:
        assert_same_weights(tmp_path / "sharded", tmp_path / "alone", 1e-5)
    metrics = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("alone", "sharded")]
    for name in (name for name in metrics[0] if name.startswith("val/")):
        assert metrics[1][name] == pytest.approx(metrics[0][name], abs=1e-5), name


@pytest.mark.slow
def test_classes_are_embedded_by_shares(table: Path, tmp_path: Path) -> None:
    words = [*WORDS, "data.name=captions", f"data.path={table}", "data.label_column=class", "finetune.validation=0.4"]
    assert main([*words, *ALONE, f"output_dir={tmp_path / 'alone'}"]) == 0
    assert on_two_ranks(ROOT / "fit.py", tmp_path / "sharded", *words) == 0
    found = [json.loads((tmp_path / name / "summary.json").read_text()) for name in ("alone", "sharded")]
    assert found[0]["val/zero_shot_accuracy"] == found[1]["val/zero_shot_accuracy"]


@pytest.mark.slow
@pytest.mark.parametrize("train", ["all", "lora"])
def test_a_run_of_shares_that_is_killed_and_resumed(
    train: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"finetune.train={train}", "finetune.mask=readout", "finetune.checkpoint_every=2", "trainer.max_epochs=3"]
    assert main([*WORDS, *ALONE, *words, f"output_dir={tmp_path / 'alone'}"]) == 0
    program = tmp_path / "stops.py"
    stop = STOPS["inside an epoch"].replace("global_step == 8", "global_step == 6")
    start = (
        "import os, sys\nfrom m2ib_lightning.cli import main\nfrom m2ib_lightning.finetuning import IBClipModule as M\n"
    )
    program.write_text(f"{start}{stop}\nsys.exit(main())\n")
    folder = tmp_path / "sharded"
    assert on_two_ranks(program, folder, *words) != 0
    assert not (folder / "model").exists()
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in checkpoint["state_dict"].values())
    assert main([*WORDS, *ALONE, *words, f"output_dir={folder}", "resume=true"]) == 2
    assert "trainer.strategy was fsdp and is now ddp, or one rank" in capsys.readouterr().err
    for _ in ("resumed", "over already"):
        assert on_two_ranks(ROOT / "fit.py", folder, *words, "resume=true") == 0
    assert_same_weights(folder, tmp_path / "alone", 1e-5)
    assert load_file(folder / "model" / "model.safetensors")["logit_scale"].ndim == 0


@pytest.mark.slow
def test_ranks_that_know_different_classes_do_not_wait_for_each_other(table: Path, tmp_path: Path) -> None:
    """As where one of them could not read the pictures whose class is known."""
    program = tmp_path / "forgets.py"
    program.write_text(
        "import os, sys\n"
        "from dataclasses import replace\n"
        "from m2ib_lightning.cli import main\n"
        "from m2ib_lightning.finetuning import IBClipModule as M\n"
        "step = M.validation_step\n"
        "def forgets(self, batch, index):\n"
        "    batch.pairs = [replace(pair, truth=None) for pair in batch.pairs]\n"
        "    return step(self, batch, index)\n"
        "if os.environ.get('LOCAL_RANK') == '1':\n"
        "    M.validation_step = forgets\n"
        "sys.exit(main())\n"
    )
    words = ["data.name=captions", f"data.path={table}", "data.label_column=class", "finetune.validation=0.4"]
    assert on_two_ranks(program, tmp_path / "sharded", *words) == 0
    assert "val/zero_shot_accuracy" not in json.loads((tmp_path / "sharded" / "summary.json").read_text())
