"""What ``task=`` can be: one file per task."""

from __future__ import annotations

from m2ib_lightning.config import Config
from m2ib_lightning.tasks.attribute import attribute
from m2ib_lightning.tasks.evaluate import evaluate
from m2ib_lightning.tasks.finetune import finetune

TASKS = {"attribute": attribute, "evaluate": evaluate, "finetune": finetune}


def run(config: Config) -> int:
    """Run the task; returns the command's exit status."""
    return TASKS[config.task](config)
