"""Several ranks without the cost of new processes: forks of the test process, started as torchrun would."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from typing import Any

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
    processes = [context.Process(target=_be_rank, args=(words, rank, ranks, port)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=110)
    for process in processes:
        process.kill()  # a rank that has ended has its exit status already
    return [process.exitcode for process in processes]


def _be_rank(words: list[str], rank: int, ranks: int, port: int) -> None:
    """Run the command as one rank, in a fork."""
    variables = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test"}
    os.environ.update({name: str(value) for name, value in (variables | meeting).items()})
    torch.set_num_threads(1)  # the threads of the test process are not in its forks, which would wait for them
    lightning: Any = rank_zero_only
    lightning.rank = rank  # set at import, when this was another process
    sys.exit(main(words))
