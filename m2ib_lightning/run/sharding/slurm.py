"""The Slurm step of this process: the tasks that ``srun`` started together, and their layout on nodes.

The shells of ``sbatch`` and ``salloc`` also have the variables of the job (``SLURM_NTASKS``, ``SLURM_NTASKS_PER_NODE``,
``SLURM_NNODES``), but each shell is a single process. A step may also be smaller than its job. The variables of the
step therefore come first.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from lightning.fabric.plugins.environments import SLURMEnvironment
from typing_extensions import override

from m2ib_lightning.errors import M2IBError


@dataclass(frozen=True)
class SlurmStep:
    """Several tasks that ``srun`` started together, one of which is this process.

    Args:
        tasks: number of tasks.
        nodes: number of nodes.
    """

    tasks: int
    nodes: int

    @property
    def tasks_per_node(self) -> int:
        """Number of tasks on each node.

        Raises:
            M2IBError: if the nodes have different numbers of tasks.
        """
        layout = os.environ.get("SLURM_STEP_TASKS_PER_NODE", "")
        if self.tasks % self.nodes or "," in layout:  # 2(x3) means two on each of three nodes, 2,1 means two and one
            suffix = f" ({layout})" if layout else ""
            raise M2IBError(
                f"srun started {self.tasks} tasks on {self.nodes} nodes, not the same number on each{suffix}: give "
                "srun (or sbatch) --nodes and --ntasks-per-node"
            )
        return self.tasks // self.nodes

    @staticmethod
    def of_this_process() -> SlurmStep | None:
        """Return the step of this process, or None.

        A single task, a shell of ``sbatch`` or ``salloc``, and a rank of torchrun have none.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ or "SLURM_PROCID" not in os.environ:
            return None
        tasks = _number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
        if "SLURM_STEP_ID" not in os.environ or tasks < 2 or _is_shell():
            return None
        return SlurmStep(tasks, _number("SLURM_STEP_NUM_NODES", "SLURM_NNODES"))


def in_slurm_job() -> bool:
    """Whether Lightning might take this process for a Slurm task."""
    return not {"SLURM_JOB_ID", "SLURM_NTASKS"}.isdisjoint(os.environ)


def _number(*names: str) -> int:
    """Return the value of the first variable that holds a number, or 1 if none does."""
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdigit()), 1)


def _is_shell() -> bool:
    """Whether the process is an interactive shell: ``srun --ntasks=4 --pty bash`` runs one task only."""
    return "SLURM_PTY_PORT" in os.environ and os.isatty(0)


class StepEnvironment(SLURMEnvironment):
    """Lightning's cluster environment for a Slurm step.

    It reads the variables of the step, accepts any job name and never requeues.

    Args:
        step: step of this process.
    """

    def __init__(self, step: SlurmStep) -> None:
        self.step = step
        super().__init__(auto_requeue=False)  # requeueing would write and load a checkpoint

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
        """Accept the process: ``SlurmStep`` has checked it."""

    @staticmethod
    @override
    def _validate_srun_variables() -> None:
        """Accept the variables: those of the job say nothing about the step."""
