"""Progress without a terminal: a line every 30 seconds of a clock that the test moves."""

from __future__ import annotations

from typing import Any

import pytest
from lightning import Callback, Trainer
from lightning.pytorch.demos.boring_classes import BoringModel, RandomDataset
from torch.utils.data import DataLoader
from typing_extensions import override

from m2ib_lightning.run.callbacks import PairProgressLines, StepProgressLines


class Clock:
    """A clock that moves by a number of seconds for each batch."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 1000.0, seconds

    def __call__(self) -> float:
        return self.now


class Work(Callback):
    """Moves the clock at each batch; it must come before the progress."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    @override
    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += self.clock.seconds


class Pairs(BoringModel):
    """A module that explains two pairs in each batch."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return {"results": [None, None]}


def lines_of(progress: Any, clock: Clock, module: BoringModel, **limits: Any) -> None:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    limits = {"max_epochs": 1, "limit_val_batches": 0, "accelerator": "cpu", **quiet, **limits}
    Trainer(callbacks=[Work(clock), progress], **limits).fit(module)


def test_pairs() -> None:
    lines: list[str] = []
    clock = Clock(8.0)
    lines_of(PairProgressLines("Grounding", 20, 1, clock, lines.append), clock, Pairs(), limit_train_batches=10)
    assert lines == [
        "Grounding: 8 of 20 pairs, 0.25 pairs/s, 48 s left",  # at 32 s
        "Grounding: 16 of 20 pairs, 0.25 pairs/s, 16 s left",  # at 64 s
    ]


def test_pairs_of_one_rank_of_a_stream() -> None:
    lines: list[str] = []
    clock = Clock(45.0)
    lines_of(PairProgressLines("Explaining", None, 8, clock, lines.append), clock, Pairs(), limit_train_batches=2)
    assert lines == [f"Explaining on rank 0 of 8: {done} pairs, 0.04 pairs/s" for done in (2, 4)]


def test_a_short_run_prints_nothing() -> None:
    lines: list[str] = []
    clock = Clock(2.9)
    lines_of(PairProgressLines("Explaining", 20, 1, clock, lines.append), clock, Pairs(), limit_train_batches=10)
    assert lines == []


def test_steps_of_a_training() -> None:
    lines: list[str] = []
    clock = Clock(10.0)
    progress = StepProgressLines(clock, lines.append)
    lines_of(progress, clock, BoringModel(), max_epochs=2, limit_train_batches=4)
    assert lines == [
        "Training: 3 of 8 steps, 0.10 steps/s, 50 s left",
        "Training: 6 of 8 steps, 0.10 steps/s, 20 s left",
    ]


def test_a_resumed_training_counts_the_steps_before_but_not_for_the_rate(tmp_path: Any) -> None:
    first = Trainer(max_steps=4, logger=False, enable_progress_bar=False, default_root_dir=tmp_path, accelerator="cpu")
    model = BoringModel()
    first.fit(model, DataLoader(RandomDataset(32, 8), batch_size=1))
    first.save_checkpoint(tmp_path / "last.ckpt")
    lines: list[str] = []
    clock = Clock(20.0)
    second = Trainer(
        max_steps=8,
        logger=False,
        enable_checkpointing=False,
        accelerator="cpu",
        callbacks=[Work(clock), StepProgressLines(clock, lines.append)],
    )
    second.fit(model, DataLoader(RandomDataset(32, 8), batch_size=1), ckpt_path=str(tmp_path / "last.ckpt"))
    assert lines == [
        "Training: 6 of 8 steps, 0.05 steps/s, 40 s left",
        "Training: 8 of 8 steps, 0.05 steps/s, 0 s left",
    ]


@pytest.mark.parametrize("enabled", [True, False])
def test_a_disabled_progress_prints_nothing(enabled: bool) -> None:
    lines: list[str] = []
    clock = Clock(31.0)
    progress = PairProgressLines("Explaining", 2, 1, clock, lines.append)
    (progress.enable if enabled else progress.disable)()
    lines_of(progress, clock, Pairs(), limit_train_batches=1)
    assert len(lines) == int(enabled)
