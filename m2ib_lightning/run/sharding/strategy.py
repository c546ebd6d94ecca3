"""The Lightning strategy ``samples``: every rank works on pairs of its own, and none waits for another.

A process group would hang on uneven ranks, because ``fit`` broadcasts before every batch. So there is none: what would
be decided together is decided by each rank for itself.
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

_PATIENCE = 60.0
"""Seconds that the other processes of a node get to write what they have, after Ctrl-C."""


class SamplesLauncher(_SubprocessScriptLauncher):
    """Lightning's launcher of one process per device, without the observer that kills all when one dies.

    Attributes:
        handed: what the children find in their environment.
        started: called when they have been started.
    """

    handed: dict[str, str]
    started: Callable[[], None]

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.handed = {}
        self.started = lambda: None

    @override
    def launch(self, function: Callable[..., T], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> T:
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            before = dict(os.environ)
            os.environ.update(self.handed)
            try:
                self._call_children_scripts()
            finally:  # what it set for the children would make a later run here think that it is one of them
                os.environ.clear()
                os.environ.update(before)
            self.started()
        _set_num_threads_if_needed(num_processes=self.num_processes)
        result = function(*args, **kwargs)
        self.wait()  # so that all is done when ``fit`` returns
        return result

    def wait(self, seconds: float | None = None) -> dict[int, int]:
        """Wait for the children to end.

        Args:
            seconds: at most; None for as long as it takes.

        Returns:
            Exit statuses by local rank, of those that ended.
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
        """Send a signal to the children; after Ctrl-C (Lightning asks for SIGKILL) they may first write."""
        if signum == signal.SIGKILL:
            super().kill(signal.SIGINT)
            self.wait(_PATIENCE)
        super().kill(signum)


class SamplesStrategy(DDPStrategy):
    """Ranks that share nothing while they work: no process group, no wrapped module, local decisions.

    ``Trainer(strategy="samples", devices=N)``. The data loader must give each rank its own share (a ``PairDataModule``
    does) and gradients are not reduced: this is for parameters of the samples' own, not for training a model.
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
        """Nothing is wrapped."""

    @override
    def barrier(self, *args: Any, **kwargs: Any) -> None:
        """No rank waits."""

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
    StrategyRegistry.register(SamplesStrategy.strategy_name, SamplesStrategy, description="each rank for itself")
