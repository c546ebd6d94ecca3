"""The rendezvous of ranks, and the error that each gets when another fails; each thread stands for a process."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from torch.distributed import TCPStore

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.sharding import Rendezvous, StopSignals
from tests.ranks import free_port


class Address:
    """The part of Lightning's environment that a rendezvous reads."""

    def __init__(self) -> None:
        self.main_address, self.main_port = "127.0.0.1", free_port()


def meet(work: Callable[[int, Rendezvous], Any], ranks: int = 3) -> tuple[list[Any], Address]:
    """Run ``work`` on all ranks at once; return the result or the error of each, and the address."""
    address: Any = Address()

    def run(rank: int) -> Any:
        try:
            with Rendezvous(address, rank, ranks - 1) as rendezvous:
                return work(rank, rendezvous)
        except M2IBError as error:
            return error.with_traceback(None)  # its frames would keep the store open, unlike a process that ends

    with ThreadPoolExecutor(ranks) as threads:
        return list(threads.map(run, range(ranks))), address


def test_all_receive_the_message_and_free_the_address() -> None:
    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            rendezvous.send({"run": "here"})
            message = {"run": "here"}
        else:
            message = rendezvous.receive()
        rendezvous.leave()
        return message

    messages, address = meet(work)
    assert messages == [{"run": "here"}] * 3
    TCPStore(address.main_address, address.main_port, is_master=True, wait_for_workers=False)  # as a process group does


def test_rank_0_waits_until_the_others_have_confirmed() -> None:
    address: Any = Address()
    with Rendezvous(address, 0, 1) as zero, Rendezvous(address, 1, 1) as one:
        zero.send({"run": "x"})
        assert one.receive() == {"run": "x"}
        one.confirm()
        began = time.monotonic()
        zero.wait_for_confirmations(30)
        assert time.monotonic() - began < 10
    with pytest.raises(M2IBError, match=r"can't be met at 127\.0\.0\.1:.* Set MASTER_PORT"), Rendezvous(address, 0, 1):
        pass


@pytest.mark.slow
def test_a_rank_that_waits_for_rank_0_can_be_ended() -> None:
    stop = StopSignals()
    stop.received = signal.SIGTERM
    address: Any = Address()
    with pytest.raises(SystemExit, match="143"), Rendezvous(address, 1, 1, stop.exit_if_received):  # no rank 0
        pass
    with (
        Rendezvous(address, 0, 1),
        Rendezvous(address, 1, 1, stop.exit_if_received) as one,
        pytest.raises(SystemExit, match="143"),
    ):
        one.receive()  # rank 0 sends nothing


def test_a_rank_reports_that_rank_0_has_ended() -> None:
    address: Any = Address()
    zero = Rendezvous(address, 0, 1)
    with zero, Rendezvous(address, 1, 1) as one:
        zero._store = None  # the store ends with rank 0
        with pytest.raises(M2IBError, match="rank 1 could not learn from rank 0 which run this is"):
            one.receive()


@pytest.mark.parametrize("when", ["before it receives", "after it has received"])
def test_a_rank_that_fails_ends_the_others_with_its_reason(when: str) -> None:
    start: list[float] = []
    connected = Barrier(3, lambda: start.append(time.monotonic()))

    def work(rank: int, rendezvous: Rendezvous) -> Any:
        connected.wait(60)  # a rank that connects only after rank 0 has ended would wait for half an hour
        if rank == 0:
            rendezvous.send({"run": "here"})
        elif rank == 1:
            if when == "after it has received":
                rendezvous.receive()
            raise M2IBError("no such model")
        else:
            rendezvous.receive()
        rendezvous.leave()
        return "left"

    (first, second, third), _ = meet(work)
    assert time.monotonic() - start[0] < 30
    assert "another rank did not begin: rank 1: no such model" in str(first)
    assert str(second) == "no such model"
    assert isinstance(third, M2IBError)
    assert "rank 2 could not learn from rank 0" in str(third)


def test_when_rank_0_fails_the_others_receive_its_error() -> None:
    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            raise M2IBError("the directory is full")
        return rendezvous.receive()

    (first, *others), _ = meet(work)
    assert str(first) == "the directory is full"
    assert [str(other) for other in others] == ["rank 0 did not begin: the directory is full"] * 2


def test_a_process_group_may_use_the_address_at_once() -> None:
    """A client connects to the next store of rank 0 at the same address right after all ranks have left."""

    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            rendezvous.send({})
        else:
            rendezvous.receive()
        address = rendezvous._address()
        rendezvous.leave()
        store = TCPStore(*address, world_size=2, is_master=rank == 0, timeout=timedelta(seconds=20))
        store.set(str(rank), "there")
        store.wait([str(1 - rank)], timedelta(seconds=20))
        value = store.get(str(1 - rank))
        time.sleep(0.5)  # the server lives as long as rank 0's store
        return value

    values, _ = meet(work, ranks=2)
    assert values == [b"there", b"there"]
