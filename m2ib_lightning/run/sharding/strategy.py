"""The Lightning strategy ``samples``: each rank works on its own pairs and waits for no other.

A process group would hang on uneven shares, because ``fit`` broadcasts before every batch. The strategy creates none,
and each rank decides for itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any, TypeVar

from lightning import Trainer
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.fabric.utilities.seed import reset_seed
from lightning.pytorch.strategies import DDPStrategy, StrategyRegistry
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from torch import Tensor
from typing_extensions import override

T = TypeVar("T")

_WRITE_SECONDS = 60.0
"""Seconds in which the child processes may write their rows after Ctrl-C."""


class SamplesLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of one process per device, without the observer that kills all ranks when one dies.

    Attributes:
        child_environment: environment variables for the child processes.
        on_started: function called after the child processes have been started.
    """

    child_environment: dict[str, str]
    on_started: Callable[[], None]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.child_environment = {}
        self.on_started = lambda: None

    @override
    def launch(self, function: Callable[..., T], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> T:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            before = dict(os.environ)
            os.environ.update(self.child_environment)
            try:
                self._call_children_scripts()
            finally:  # else a later run in this process would take itself for a child
                os.environ.clear()
                os.environ.update(before)
            self.on_started()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        result = function(*args, **kwargs)
        self.wait()  # all pairs are done when ``fit`` returns
        return result

    def wait(self, seconds: float | None = None) -> dict[int, int]:
        """Wait for the child processes to end.

        Args:
            seconds: longest time to wait, in seconds; None for no limit.

        Returns:
            Exit statuses of the processes that ended, by local rank.
        """
        end = None if seconds is None else time.monotonic() + seconds
        for process in self.procs:
            try:
                process.wait(None if end is None else max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                break
        return {rank: process.returncode for rank, process in enumerate(self.procs, 1) if process.poll() is not None}

    @override
    def kill(self, signum: Any) -> None:
        """Send a signal to the child processes.

        Lightning answers Ctrl-C with SIGKILL. The child processes get SIGINT first, and time to write their rows.
        """
        if signum == signal.SIGKILL:
            super().kill(signal.SIGINT)
            self.wait(_WRITE_SECONDS)
        super().kill(signum)


class SamplesStrategy(DDPStrategy):
    """Strategy of ranks that share nothing while they work: no process group, no wrapped module, local decisions.

    It is selected by ``Trainer(strategy="samples", devices=N)``. The data loader must give each rank its own share, as
    a ``PairDataModule`` does. Gradients are not reduced, so the strategy suits per-sample parameters only.
    """

    strategy_name = "samples"

    @override
    def _configure_launcher(self) -> None:
        assert self.cluster_environment is not None
        self._launcher = SamplesLauncher(self.cluster_environment, self.num_processes, self.num_nodes)

    @override
    def setup_distributed(self) -> None:
        reset_seed()
        self.set_world_ranks()

    @override
    def configure_ddp(self) -> None:
        """Leave the module unwrapped."""

    @override
    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """Return at once, because no rank waits for another."""

    @override
    def broadcast(self, obj: T, src: int = 0) -> T:
        return obj

    @override
    def reduce(self, tensor: Tensor, group: Any = None, reduce_op: Any = "mean") -> Tensor:
        return tensor

    @override
    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:
        return decision


if SamplesStrategy.strategy_name not in StrategyRegistry:
    StrategyRegistry.register(SamplesStrategy.strategy_name, SamplesStrategy, description="ranks share nothing")
