"""The ranks of a run, and the place of this process among them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
from lightning import Trainer
from lightning.fabric.plugins.environments import ClusterEnvironment

from m2ib_lightning.config import Config
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.sharding.rendezvous import LAUNCH_VARIABLE


@dataclass(frozen=True)
class World:
    """The place of this process among the ranks of a run.

    Attributes:
        rank: rank of this process, from 0.
        size: number of ranks.
        device: device of this rank.
        nodes: number of machines.
        environment: Lightning's cluster environment, which says what started the ranks; None for a single process.
    """

    rank: int
    size: int
    device: torch.device
    nodes: int
    environment: ClusterEnvironment | None

    @staticmethod
    def of(trainer: Trainer) -> World:
        """Return the place of this process among the ranks of a Trainer."""
        strategy: Any = trainer.strategy
        environment = getattr(strategy, "cluster_environment", None)
        return World(trainer.global_rank, trainer.world_size, strategy.root_device, trainer.num_nodes, environment)

    @property
    def meeting_place(self) -> ClusterEnvironment | None:
        """Cluster environment with the address at which the ranks meet; None if all others are children of rank 0."""
        return self.environment if self.started_by_others or self.nodes > 1 else None

    @property
    def listeners(self) -> int:
        """Number of ranks that meet rank 0 over the network.

        These are all other ranks, or one rank of each other node, which starts the rest of its node.
        """
        return self.size - 1 if self.started_by_others else self.nodes - 1

    @property
    def is_child(self) -> bool:
        """Whether another process of this run started this one and gave it the message of rank 0."""
        return LAUNCH_VARIABLE in os.environ

    @property
    def started_by_others(self) -> bool:
        """Whether torchrun, Slurm or a person started the ranks, rather than rank 0."""
        return self.size > 1 and self.environment is not None and self.environment.creates_processes_externally


def check_world(config: Config, world: World) -> None:
    """Check that the ranks can meet, and that the keys of the run agree, before anything is loaded.

    Raises:
        M2IBError: if a key is wrong, or the ranks could not meet.
    """
    if config.seed < 0:
        raise M2IBError(f"seed must not be negative, got {config.seed}")
    if config.retry_failed and not config.resume:
        raise M2IBError("retry_failed=true goes with resume=true and the output_dir of the run")
    if world.started_by_others and config.output_dir is None and not world.is_child:
        raise M2IBError(
            "output_dir is needed where torchrun, Slurm or another launcher starts the processes: a directory that all "
            "of them see"
        )
    if world.nodes > 1 and not world.started_by_others and not {"MASTER_ADDR", "MASTER_PORT"} <= set(os.environ):
        raise M2IBError(
            f"trainer.num_nodes={world.nodes}: set MASTER_ADDR and MASTER_PORT (where rank 0 is; the same on every "
            "node) and NODE_RANK (0, 1, ...), and start the command on each; torchrun and Slurm set them themselves"
        )
