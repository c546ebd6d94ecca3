"""What the tasks over pairs give ``lightning.Trainer``, what they refuse, and on how many ranks one is going to run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment, LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.precision import half_precision
from m2ib_lightning.run.sharding import SamplesStrategy, SlurmStep, StepEnvironment, in_slurm_job
from m2ib_lightning.run.sharding.rendezvous import LAUNCH_VARIABLE

_OURS = {"max_epochs": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
_HARMLESS = {"accumulate_grad_batches": 1, "max_steps": -1}  # Lightning's own defaults
_SHORTER = "it would leave pairs out unsaid; data.limit explains only the first so many"

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
    "logger": "the run directory's TensorBoard is the logger",
    "callbacks": "callbacks are objects; give them to a Trainer of your own with M2IBModule",
}
_PRECISIONS = {
    "16-true": "alpha, lambda and the information must stay float32; use bf16-mixed",
    "bf16-true": "alpha, lambda and the information must stay float32; use bf16-mixed",
}
_SHARED = (
    "the pairs share no gradient, and ranks that wait for each other hang on uneven shares: leave it out, more than "
    "one device takes 'samples'"
)
_TORCHRUN_SIZES = {"devices": "LOCAL_WORLD_SIZE", "num_nodes": "GROUP_WORLD_SIZE"}


@dataclass(frozen=True)
class World:
    """Where this process stands among those of the run.

    Attributes:
        rank: from 0.
        size: how many ranks there are.
        device: of this rank.
        nodes: on how many machines.
        environment: who started the processes, as Lightning knows it; None if there is one.
    """

    rank: int
    size: int
    device: torch.device
    nodes: int
    environment: ClusterEnvironment | None

    @staticmethod
    def of(trainer: Trainer) -> World:
        """As that trainer knows it."""
        strategy: Any = trainer.strategy
        environment = getattr(strategy, "cluster_environment", None)
        return World(trainer.global_rank, trainer.world_size, strategy.root_device, trainer.num_nodes, environment)

    @property
    def meeting_place(self) -> ClusterEnvironment | None:
        """Who knows where ranks meet that are not all children of rank 0; None if they are."""
        return self.environment if self.started_by_others or self.nodes > 1 else None

    @property
    def listeners(self) -> int:
        """How many ranks meet rank 0 there: all others, or of each other node the one that starts the rest."""
        return self.size - 1 if self.started_by_others else self.nodes - 1

    @property
    def is_child(self) -> bool:
        """Whether another process of this run started it, and handed it what it must know."""
        return LAUNCH_VARIABLE in os.environ

    @property
    def started_by_others(self) -> bool:
        """Whether the ranks were started by torchrun, Slurm or by hand, not by rank 0."""
        return self.size > 1 and self.environment is not None and self.environment.creates_processes_externally


def trainer_arguments(given: dict[str, Any]) -> tuple[dict[str, Any], World]:
    """The Trainer's arguments, and the world it will find.

    Raises:
        M2IBError: for an argument that would change or break the result; says why.
    """
    _refuse(given)
    sizes, environments = launched()
    arguments: dict[str, Any] = {"enable_model_summary": False, "log_every_n_steps": 1, **sizes, **given, **_OURS}
    half = str(arguments.get("precision")) in ("16", "16-mixed")
    if half:
        if "plugins" in arguments:
            raise M2IBError("trainer.precision=16-mixed is a plugin here: it can't go together with trainer.plugins")
        del arguments["precision"]
    arguments |= {"plugins": [*arguments.get("plugins", []), *environments]} if environments else {}
    probe = probe_trainer(arguments, given, environments)
    if probe.world_size > 1 or isinstance(probe.strategy, DDPStrategy):
        arguments["strategy"] = SamplesStrategy.strategy_name
    if half:
        plugin = half_precision(probe.strategy.root_device.type)
        arguments["plugins"] = [*arguments.get("plugins", []), plugin]
    return arguments, World.of(probe)


def _refuse(given: dict[str, Any]) -> None:
    for name, reason in _REASONS.items():
        if name in given and given[name] != {**_OURS, **_HARMLESS}.get(name, ...):
            raise M2IBError(f"trainer.{name}={given[name]!r} is refused for task=attribute: {reason}")
    precision = str(given.get("precision", "32-true"))
    if precision in _PRECISIONS:
        raise M2IBError(f"trainer.precision={precision} is refused for task=attribute: {_PRECISIONS[precision]}")
    if given.get("strategy", "auto") not in ("auto", SamplesStrategy.strategy_name):
        raise M2IBError(f"trainer.strategy={given['strategy']!r} is refused for task=attribute: {_SHARED}")


def launched() -> tuple[dict[str, int], list[ClusterEnvironment]]:
    """Devices and nodes as torchrun or ``srun`` started processes for them, and who is to tell Lightning its rank."""
    if "TORCHELASTIC_RUN_ID" in os.environ:  # maybe within Slurm
        found = {argument: os.environ.get(name, "") for argument, name in _TORCHRUN_SIZES.items()}
        return {argument: int(value) for argument, value in found.items() if value.isdigit()}, []
    step = SlurmStep.of_this_process()
    if step is not None:
        return {"devices": step.tasks_per_node, "num_nodes": step.nodes}, [StepEnvironment(step)]
    return {}, [LightningEnvironment()] if in_slurm_job() else []  # else Lightning would take the job's variables


def probe_trainer(arguments: dict[str, Any], given: dict[str, Any], environments: list[ClusterEnvironment]) -> Trainer:
    """A Trainer with those arguments, to see whether Lightning and the launcher take them.

    Raises:
        M2IBError: if one does not.
    """
    try:
        probe = Trainer(**arguments, logger=False)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        first = str(error).strip().split("\n")[0]
        raise M2IBError(f"lightning.Trainer refuses {given}: {first}") from None
    for started_by in environments:
        started_by.validate_settings(num_devices=probe.num_devices, num_nodes=probe.num_nodes)
    return probe
