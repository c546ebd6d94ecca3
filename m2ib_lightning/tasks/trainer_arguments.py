"""The arguments of ``lightning.Trainer`` for tasks over pairs, and those that are refused."""

from __future__ import annotations

import os
from typing import Any

from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.loggers import logger_names
from m2ib_lightning.run.precision import half_precision
from m2ib_lightning.run.sharding import SamplesStrategy, SlurmStep, StepEnvironment, in_slurm_job
from m2ib_lightning.tasks.world import World

_FIXED = {"max_epochs": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
"""Arguments that the tasks set themselves."""

_HARMLESS = {"accumulate_grad_batches": 1, "max_steps": -1}
"""Defaults of Lightning, which a user may also give."""

_SHORTER = "it would leave pairs out silently; data.limit=N explains only the first N"

_REASONS = {
    "max_epochs": "a pair is explained once; bottleneck.steps is the number of optimiser steps",
    "min_epochs": "a pair is explained once; bottleneck.steps is the number of optimiser steps",
    "use_distributed_sampler": "Lightning's sampler repeats pairs to even out ranks",
    "enable_checkpointing": "the table's rows are the only state",
    "accumulate_grad_batches": "the pairs of a batch share no gradient",
    "gradient_clip_val": "clipping would couple the pairs of a batch",
    "gradient_clip_algorithm": "clipping would couple the pairs of a batch",
    "max_steps": _SHORTER,
    "min_steps": _SHORTER,
    "max_time": _SHORTER,
    "limit_train_batches": _SHORTER,
    "overfit_batches": _SHORTER,
    "fast_dev_run": _SHORTER,
    "callbacks": "callbacks are objects; give them to a Trainer of your own with M2IBModule",
}
"""Arguments that are refused unless they are harmless, each with the reason."""

_PRECISIONS = {
    "16-true": "alpha, lambda and the information must stay float32; use bf16-mixed",
    "bf16-true": "alpha, lambda and the information must stay float32; use bf16-mixed",
}
"""Refused precisions, each with the reason."""

_SHARED = (
    "the pairs share no gradient, and ranks that wait for each other hang on uneven shares: leave it out, more than "
    "one device takes 'samples'"
)
_TORCHRUN_SIZES = {"devices": "LOCAL_WORLD_SIZE", "num_nodes": "GROUP_WORLD_SIZE"}


def trainer_arguments(requested: dict[str, Any]) -> tuple[dict[str, Any], World]:
    """Return the arguments of the Trainer but its logger, and the ranks that it will run on.

    Args:
        requested: ``trainer.*`` of the configuration.

    Raises:
        M2IBError: if an argument would change or break the result, or Lightning refuses it; says why.
    """
    _refuse(requested)
    sizes, environments = launched()
    arguments: dict[str, Any] = {"enable_model_summary": False, "log_every_n_steps": 1, **sizes, **requested, **_FIXED}
    arguments.pop("logger", None)
    half = str(arguments.get("precision")) in ("16", "16-mixed")
    if half:
        if "plugins" in arguments:
            raise M2IBError("trainer.precision=16-mixed is a plugin here: it can't go together with trainer.plugins")
        del arguments["precision"]
    arguments |= {"plugins": [*arguments.get("plugins", []), *environments]} if environments else {}
    probe = probe_trainer(arguments, requested, environments)
    if probe.world_size > 1 or isinstance(probe.strategy, DDPStrategy):
        arguments["strategy"] = SamplesStrategy.strategy_name
    if half:
        plugin = half_precision(probe.strategy.root_device.type)
        arguments["plugins"] = [*arguments.get("plugins", []), plugin]
    return arguments, World.of(probe)


def _refuse(requested: dict[str, Any]) -> None:
    for name, reason in _REASONS.items():
        if name in requested and requested[name] != {**_FIXED, **_HARMLESS}.get(name, ...):
            raise M2IBError(f"trainer.{name}={requested[name]!r} is refused for task=attribute: {reason}")
    logger_names(requested.get("logger"))
    precision = str(requested.get("precision", "32-true"))
    if precision in _PRECISIONS:
        raise M2IBError(f"trainer.precision={precision} is refused for task=attribute: {_PRECISIONS[precision]}")
    if requested.get("strategy", "auto") not in ("auto", SamplesStrategy.strategy_name):
        raise M2IBError(f"trainer.strategy={requested['strategy']!r} is refused for task=attribute: {_SHARED}")


def launched() -> tuple[dict[str, int], list[ClusterEnvironment]]:
    """Return the numbers of devices and nodes of torchrun or ``srun``, and the cluster environments they need."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # checked first: torchrun may run within Slurm
        sizes = {argument: os.environ.get(name, "") for argument, name in _TORCHRUN_SIZES.items()}
        return {argument: int(value) for argument, value in sizes.items() if value.isdigit()}, []
    step = SlurmStep.of_this_process()
    if step is not None:
        return {"devices": step.tasks_per_node, "num_nodes": step.nodes}, [StepEnvironment(step)]
    return {}, [LightningEnvironment()] if in_slurm_job() else []  # else Lightning would read the job's variables


def probe_trainer(
    arguments: dict[str, Any], requested: dict[str, Any], environments: list[ClusterEnvironment]
) -> Trainer:
    """Return a trial Trainer, which shows that Lightning and the launcher accept the arguments.

    Args:
        arguments: all arguments of the Trainer.
        requested: those that the user gave, for the error message.
        environments: cluster environments that check the numbers of devices and nodes.

    Raises:
        M2IBError: if Lightning or the launcher refuses; quotes the reason.
    """
    try:
        probe = Trainer(**arguments, logger=False)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        first = str(error).strip().split("\n")[0]
        raise M2IBError(f"lightning.Trainer refuses {requested}: {first}") from None
    for environment in environments:
        environment.validate_settings(num_devices=probe.num_devices, num_nodes=probe.num_nodes)
    return probe
