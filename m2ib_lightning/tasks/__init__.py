"""The tasks (``task=``), one file each, imported on demand; and the subcommands."""

from __future__ import annotations

from importlib import import_module

from m2ib_lightning.config import Config

TASKS = {
    "attribute": "m2ib_lightning.tasks.attribute:attribute",
    "ground": "m2ib_lightning.tasks.ground:ground",
    "evaluate": "m2ib_lightning.tasks.evaluate:evaluate",
    "finetune": "m2ib_lightning.tasks.finetune:finetune",
    "tune": "m2ib_lightning.tasks.tune:tune",
}
"""Import path of each task's function, which takes the configuration and returns the exit status."""


def run(config: Config) -> int:
    """Run the task that a configuration names; return the exit status of the command."""
    module, _, function = TASKS[config.task].partition(":")
    status: int = getattr(import_module(module), function)(config)
    return status
