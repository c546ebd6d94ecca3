"""What Slurm says of this process: whether it is one of several tasks that ``srun`` started, and how they are placed.

The variables of the job (``SLURM_NTASKS``, ``SLURM_NTASKS_PER_NODE``, ``SLURM_NNODES``) are also in the shells of
``sbatch`` and ``salloc``, where there is one process only, and may be larger than a step: its own are counted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from lightning.fabric.plugins.environments import SLURMEnvironment
from typing_extensions import override

from m2ib_lightning.errors import M2IBError


@dataclass(frozen=True)
class SlurmStep:
    """Several tasks that ``srun`` started together, of which this process is one.

    Args:
        tasks: how many there are.
        nodes: on how many machines.
    """

    tasks: int
    nodes: int

    @property
    def tasks_per_node(self) -> int:
        """The same on each.

        Raises:
            M2IBError: if it isn't.
        """
        layout = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        if self.tasks % self.nodes or "," in layout:  # 2(x3) is two on each of three, 2,1 two and one
            shown = f" ({layout})" if layout else ""
            raise M2IBError(
                f"srun started {self.tasks} tasks on {self.nodes} nodes, not the same number on each{shown}: give srun "
                "(or sbatch) --nodes and --ntasks-per-node"
            )
        return self.tasks // self.nodes

    @staticmethod
    def of_this_process() -> SlurmStep | None:
        """None for a single task, in a shell of ``sbatch`` or ``salloc``, and where torchrun made the ranks."""
        if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" not in os.environ:
            return None
        tasks = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
        if "SLURM_STEP_ID" not in os.environ or tasks < 2 or _is_shell():
            return None
        return SlurmStep(tasks, _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES"))


def in_slurm_job() -> bool:
    """Whether Lightning might take this process for a task of Slurm's."""
    return not {"SLURM_JOB_ID", "SLURM_NTASKS"}.isdisjoint(os.environ)


def _number(*names: str) -> int:
    """The first of the variables that is there."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 1)


def _is_shell() -> bool:
    """Whether a person types here: of ``srun --ntasks=4 --pty bash`` one task is left."""
    return "SLURM_PTY_PORT" in os.environ and os.isatty(0)


class StepEnvironment(SLURMEnvironment):
    """The step as Lightning knows it: by its own variables, for any name of the job, without requeueing.

    Args:
        step: what this process is a task of.
    """

    def __init__(self, step: SlurmStep) -> None:
        self.step = step
        super().__init__(auto_requeue=False)  # it would write and load a checkpoint

    @override
    def world_size(self) -> int:
        return self.step.tasks

    @property
    @override
    def main_address(self) -> str:
        nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
        return os.environ.get("MASTER_ADDR") or self.resolve_root_node_address(nodes)

    @override
    def validate_settings(self, num_devices: int, num_nodes: int) -> None:
        step = self.step
        if (num_devices, num_nodes) != (step.tasks_per_node, step.nodes):
            raise M2IBError(
                f"srun started {step.tasks_per_node} tasks on each of {step.nodes} nodes, but trainer.devices is "
                f"{num_devices} and trainer.num_nodes {num_nodes}: leave both out, or start as many tasks"
            )

    @staticmethod
    @override
    def _validate_srun_used() -> None:
        """It was."""

    @staticmethod
    @override
    def _validate_srun_variables() -> None:
        """Those of the job say nothing about the step."""
