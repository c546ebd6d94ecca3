"""What the Trainer is given in the environments that Slurm makes: shells, single tasks, steps of several tasks."""

from __future__ import annotations

import os
import warnings
from typing import Any

import pytest
from lightning import Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.sharding import SamplesLauncher, SlurmStep, StepEnvironment
from m2ib_lightning.tasks.trainer_arguments import trainer_arguments
from m2ib_lightning.tasks.world import World

JOB = {"JOB_ID": 4242, "JOB_NAME": "m2ib", "NODELIST": "node[3-4]", "NNODES": 2, "NTASKS": 4}
BATCH = JOB | {"PROCID": 0, "LOCALID": 0, "NODEID": 0}  # the shell of sbatch, which is one process
STEP = {"STEP_ID": 0, "STEP_NUM_TASKS": 4, "STEP_NUM_NODES": 2, "STEP_TASKS_PER_NODE": "2(x2)"}
TASK = JOB | STEP | {"PROCID": 3, "LOCALID": 1, "NODEID": 1}
INTERACTIVE_STEP = {"STEP_ID": 4294967290, "STEP_NUM_TASKS": 1, "STEP_NUM_NODES": 1, "STEP_TASKS_PER_NODE": 1}


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("SLURM_", "TORCHELASTIC_")) or name in ("LOCAL_RANK", "NODE_RANK", "MASTER_ADDR"):
            monkeypatch.delenv(name)


def arguments(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, Any], **keys: Any
) -> tuple[dict[str, Any], World, Trainer]:
    """Return the Trainer's arguments, the world and the Trainer in the environment of a Slurm process."""
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # also Lightning's advice to use srun
        trainer_keys, world = trainer_arguments({"accelerator": "cpu", **keys})
    return trainer_keys, world, Trainer(**trainer_keys, logger=False)


SHELLS = [
    pytest.param(BATCH, id="sbatch"),
    pytest.param(BATCH | {"NTASKS_PER_NODE": 2}, id="sbatch, tasks per node"),
    pytest.param({"JOB_ID": 4242, "JOB_NAME": "m2ib", "NNODES": 1, "PROCID": 0}, id="sbatch, tasks not given"),
    pytest.param(JOB | {"JOB_NAME": "interactive"}, id="salloc"),
    pytest.param(BATCH | INTERACTIVE_STEP | {"JOB_NAME": "interactive"}, id="salloc on a node of its own"),
    pytest.param(BATCH | {"STEP_ID": 0, "STEP_NUM_TASKS": 1, "JOB_NAME": "bash"}, id="srun --pty bash"),
    pytest.param(BATCH | {"STEP_ID": 0, "STEP_NUM_TASKS": 1}, id="srun, one task"),
]


@pytest.mark.parametrize("variables", SHELLS)
def test_one_process_is_one_rank(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer_keys, world, trainer = arguments(monkeypatch, variables)
    assert (world.rank, world.size, world.nodes, world.started_by_others) == (0, 1, 1, False)
    assert "strategy" not in trainer_keys
    assert trainer.world_size == 1


@pytest.mark.parametrize("variables", SHELLS[1::2])
def test_one_process_may_start_others(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, world, trainer = arguments(monkeypatch, variables, devices=2)
    assert (world.rank, world.size, world.nodes, world.started_by_others) == (0, 2, 1, False)
    assert world.meeting_place is None
    assert isinstance(trainer.strategy.launcher, SamplesLauncher)
    assert isinstance(trainer.strategy.launcher, _SubprocessScriptLauncher)
    assert isinstance(trainer.strategy.launcher.cluster_environment, LightningEnvironment)


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="srun --ntasks"),
        pytest.param({"NTASKS_PER_NODE": 2}, id="srun --ntasks-per-node"),
        pytest.param({"NTASKS_PER_NODE": 8, "NNODES": 5, "NTASKS": 40}, id="the job has more than the step"),
        pytest.param({"JOB_NAME": "interactive"}, id="srun in an interactive allocation"),
        pytest.param({"JOB_NAME": "bash", "NTASKS_PER_NODE": 2}, id="srun in an allocation called bash"),
    ],
)
def test_a_task_of_several_is_one_rank_of_several(variables: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    trainer_keys, world, trainer = arguments(monkeypatch, TASK | {"STEP_NODELIST": "node[4-5]"} | variables)
    assert (world.rank, world.size, world.nodes, world.started_by_others) == (3, 4, 2, True)
    assert (trainer_keys["devices"], trainer_keys["num_nodes"], trainer_keys["strategy"]) == (2, 2, "samples")
    assert world.listeners == 3
    assert isinstance(world.meeting_place, StepEnvironment)
    assert (world.meeting_place.main_address, world.meeting_place.main_port) == ("node4", 19242)
    assert (trainer.global_rank, trainer.local_rank, trainer.world_size) == (3, 1, 4)


def test_an_old_slurm_that_does_not_count_the_tasks_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    _, world, _ = arguments(monkeypatch, {name: value for name, value in TASK.items() if "NUM" not in name})
    assert (world.rank, world.size, world.nodes) == (3, 4, 2)


@pytest.mark.parametrize(
    ("tasks", "layout", "message"),
    [
        (3, "2,1", r"srun started 3 tasks on 2 nodes, not the same number on each \(2,1\): .* --ntasks-per-node"),
        (4, "3,1", r"srun started 4 tasks on 2 nodes, not the same number on each \(3,1\)"),
        (3, "", "srun started 3 tasks on 2 nodes, not the same number on each: give srun"),
    ],
)
def test_uneven_nodes_are_refused(tasks: int, layout: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(M2IBError, match=message):
        arguments(monkeypatch, TASK | {"STEP_NUM_TASKS": tasks, "STEP_TASKS_PER_NODE": layout})


def test_a_number_of_devices_other_than_of_tasks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(M2IBError, match=r"srun started 2 tasks on each of 2 nodes, but trainer\.devices is 1"):
        arguments(monkeypatch, TASK, devices=1)


def test_a_terminal_is_a_single_task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (TASK | {"PTY_PORT": 40000}).items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setattr(os, "isatty", lambda _: False)
    assert SlurmStep.of_this_process() == SlurmStep(4, 2)  # srun from such a terminal
    monkeypatch.setattr(os, "isatty", lambda _: True)
    assert SlurmStep.of_this_process() is None


def test_torchrun_within_slurm_decides_the_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "x", "RANK": 1, "WORLD_SIZE": 2, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2}
    for name, value in (torchrun | {"GROUP_RANK": 0, "GROUP_WORLD_SIZE": 1}).items():
        monkeypatch.setenv(name, str(value))
    _, world, _ = arguments(monkeypatch, TASK)
    assert (world.rank, world.size, world.nodes, world.started_by_others) == (1, 2, 1, True)
