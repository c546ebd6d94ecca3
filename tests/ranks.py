"""Several ranks without the cost of new processes: forks of the test process, started as torchrun would."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
from typing import Any

import pytest
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from m2ib_lightning.cli import main


def free_port() -> int:
    """Return a port of this machine that nothing listens to."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_on_ranks(words: list[str], ranks: int = 2) -> list[int | None]:
    """Run ``m2ib-fit`` with some arguments on several ranks and return their exit statuses.

    The ranks are forks of this process, so nothing is imported again. They meet over gloo as ranks that torchrun has
    started. The tests of the launchers start real commands.
    """
    context = multiprocessing.get_context("fork")
    port = free_port()
    processes = [context.Process(target=_be_rank, args=(words, _torchrun(rank, ranks, port))) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=110)
    for process in processes:
        process.kill()  # a rank that has ended has its exit status already
    return [process.exitcode for process in processes]


def launch_forks(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run ``m2ib-fit`` in this process as rank 0, with forks of it where it would start itself again.

    Returns:
        The exit status of rank 0.
    """

    class Fork(_Fork):
        def __init__(self, command: list[str], *, env: dict[str, str], cwd: None) -> None:
            super().__init__(words, env)

    class Forking:
        Popen = Fork
        TimeoutExpired = subprocess.TimeoutExpired

    monkeypatch.setattr("lightning.pytorch.strategies.launchers.subprocess_script.subprocess", Forking)
    return main(words)


class _Fork:
    """What Lightning's launcher asks of a process that it has started."""

    def __init__(self, words: list[str], env: dict[str, str]) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_be_rank, args=(words, env))
        self._process.start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("rank", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self._process.is_alive() and self.pid is not None:
            os.kill(self.pid, number)


def _torchrun(rank: int, ranks: int, port: int) -> dict[str, str]:
    """The environment of a rank that torchrun has started."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    return os.environ | {name: str(value) for name, value in (variables | meeting).items()}


def _be_rank(words: list[str], environment: dict[str, str]) -> None:
    """Run the command as one rank, in a fork."""
    os.environ.clear()
    os.environ.update(environment)
    torch.set_num_threads(1)  # the threads of the test process are not in its forks, which would wait for them
    lightning: Any = rank_zero_only
    lightning.rank = int(environment["LOCAL_RANK"])  # set at import, when this was another process
    sys.exit(main(words))
