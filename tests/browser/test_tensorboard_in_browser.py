"""TensorBoard in a browser, on runs of all three tasks that train or explain."""

from __future__ import annotations

from typing import Any

import pytest
from tensorboard import program

from m2ib_lightning.cli import main
from tests.browser.browser import check, chromium, install

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

CHECKS = ("scalars", "custom scalars", "hparams", "text", "images", "histograms")
"""The checks of ``tensorboard_checks.cjs``; each also fails if a request leaves the machine."""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What became of each check."""
    chromium()
    install()  # before the runs: it may skip the tests
    folder = tmp_path_factory.mktemp("tensorboard")
    fast = ["bottleneck.steps=3", "bottleneck.noise_samples=2", "trainer.enable_progress_bar=false"]
    fast += ["data.num_workers=0", "trainer.accelerator=cpu", "output.heatmaps=0"]
    methods = ["evaluate.methods=[saliency,random]", "evaluate.probed=0", "evaluate.metrics=[localisation]"]
    training = ["trainer.max_epochs=1", "data.batch_size=4", "finetune.warmup=2", "finetune.maps=1"]
    runs = {
        "attribute": ["data.limit=4", "data.batch_size=2", "output.tensorboard_images=2"],
        "evaluate": ["data.limit=2", *methods],
        "finetune": ["data.limit=24", *training],
    }
    for task, words in runs.items():
        assert main([*fast, f"task={task}", *words, f"output_dir={folder / 'runs' / task}"]) == 0
    server = program.TensorBoard()
    server.configure(argv=["", "--logdir", str(folder / "runs"), "--host", "127.0.0.1", "--port", "0"])
    return check("tensorboard_checks.cjs", server.launch(), folder, timeout=900)


@pytest.mark.parametrize("name", CHECKS)
def test_tensorboard(name: str, outcome: dict[str, Any]) -> None:
    assert outcome[name] is None, outcome[name]


def test_every_check_is_listed(outcome: dict[str, Any]) -> None:
    assert list(outcome) == list(CHECKS)
