"""What ``task=`` can be, one file per task, and the subcommands."""

from __future__ import annotations

from importlib import import_module

from m2ib_lightning.config import Config


def run(config: Config) -> int:
    """Run the task in the module of its name; return the command's exit status.

    A subcommand does not need Lightning, so a task is imported when it runs.
    """
    module = import_module(f"{__name__}.{config.task}")
    status: int = getattr(module, config.task)(config)
    return status
