"""Sharding of the samples over ranks that share nothing: strategy, launcher, rendezvous, locks and signals."""

from m2ib_lightning.run.sharding.launch import Launch, begin_launch, open_launch, ranks_at_work
from m2ib_lightning.run.sharding.rendezvous import Rendezvous
from m2ib_lightning.run.sharding.slurm import SlurmStep, StepEnvironment, in_slurm_job
from m2ib_lightning.run.sharding.stop import StopSignals, requeue
from m2ib_lightning.run.sharding.strategy import SamplesLauncher, SamplesStrategy

__all__ = [
    "Launch",
    "Rendezvous",
    "SamplesLauncher",
    "SamplesStrategy",
    "SlurmStep",
    "StepEnvironment",
    "StopSignals",
    "begin_launch",
    "in_slurm_job",
    "open_launch",
    "ranks_at_work",
    "requeue",
]
