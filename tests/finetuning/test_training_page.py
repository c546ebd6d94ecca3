"""The page of a training from its files, which may be damaged or missing."""

from __future__ import annotations

import json
from pathlib import Path

from m2ib_lightning.finetuning.metrics_file import NAME, read_metrics
from m2ib_lightning.tasks.commands.report import main
from tests.run.pages import PageReader

LINES = [
    {"step": 0, "val/image_to_text@1": 0.1},
    {"step": 1, "train/loss": 3.0},
    {"step": 2, "train/loss": 2.0},
    {"step": 3, "train/loss": 1.5},
    {"step": 2, "train/loss": 2.5},  # a resumed training repeats the steps after its checkpoint
    {"step": 4, "train/loss": 1.0, "val/image_to_text@1": 0.5},
]


def write_lines(folder: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in LINES)
    (folder / NAME).write_text(text + '[1]\n{"step": "x"}\n{"step": 5, "train/lo')


def test_a_repeated_step_counts_once_and_a_torn_line_not_at_all(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / NAME) == {}
    write_lines(tmp_path)
    curves = read_metrics(tmp_path / NAME)
    assert curves["train/loss"] == [(1, 3.0), (2, 2.5), (3, 1.5), (4, 1.0)]
    assert curves["val/image_to_text@1"] == [(0, 0.1), (4, 0.5)]


def test_report_writes_the_page_of_a_training_that_is_not_finished(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: finetune\nmodel:\n  name: </script><b>\n")
    (tmp_path / "training.json").write_text('{"max_epochs": 3, "max_steps": null, "pairs": 24, "source": "abc"}')
    write_lines(tmp_path)
    assert main([str(tmp_path)]) == 0
    page = PageReader(tmp_path / "report.html")
    assert page.rows == []
    assert page.head["training"]["finished"] is False
    assert page.head["training"]["facts"] == {"max_epochs": 3, "pairs": 24}
    assert page.head["training"]["curves"]["train/loss"][-1] == [4, 1.0]
    assert (page.head["task"], page.head["model"]) == ("finetune", "</script><b>")
    assert not [name for name, _ in page.elements if name == "b"]
    (tmp_path / "summary.json").write_text('{"steps": 4, "seconds": 1.5, "val/text_to_image@1": NaN}')
    assert main([str(tmp_path)]) == 0
    training = PageReader(tmp_path / "report.html").head["training"]
    assert (training["finished"], training["summary"]) == (True, {"steps": 4, "seconds": 1.5})
