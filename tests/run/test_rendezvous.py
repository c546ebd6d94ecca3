"""How ranks meet before they share gradients, and what each learns when one fails; threads stand for processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.sharding import Rendezvous
from tests.run.test_sharding import free_port


class Address:
    """All that a rendezvous asks of Lightning's environment."""

    def __init__(self) -> None:
        self.main_address, self.main_port = "127.0.0.1", free_port()


def meet(work: Callable[[int, Rendezvous], Any], ranks: int = 3) -> tuple[list[Any], Address]:
    """What each rank returned or raised."""
    address: Any = Address()

    def run(rank: int) -> Any:
        try:
            with Rendezvous(address, rank, ranks - 1) as rendezvous:
                return work(rank, rendezvous)
        except M2IBError as error:
            return error.with_traceback(None)  # whose frames hold the store, as no process that ends does

    with ThreadPoolExecutor(ranks) as threads:
        return list(threads.map(run, range(ranks))), address


def test_all_hear_rank_0_and_leave_the_address_free() -> None:
    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            rendezvous.send({"run": "here"})
            message = {"run": "here"}
        else:
            message = rendezvous.listen()
        rendezvous.part()
        return message

    found, address = meet(work)
    assert found == [{"run": "here"}] * 3
    TCPStore(address.main_address, address.main_port, is_master=True, wait_for_workers=False)  # a process group's


@pytest.mark.parametrize("when", ["before it listens", "after it has listened"])
def test_a_rank_that_fails_ends_the_others_with_its_reason(when: str) -> None:
    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            rendezvous.send({"run": "here"})
        elif rank == 1:
            if when == "after it has listened":
                rendezvous.listen()
            raise M2IBError("no such model")
        else:
            rendezvous.listen()
        rendezvous.part()
        return "parted"

    start = time.monotonic()
    (first, second, third), _ = meet(work)
    assert time.monotonic() - start < 30
    assert "another rank did not begin: rank 1: no such model" in str(first)
    assert str(second) == "no such model"
    assert isinstance(third, M2IBError)
    assert "rank 2 could not learn from rank 0" in str(third)


def test_when_rank_0_fails_the_others_hear_why() -> None:
    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            raise M2IBError("the directory is full")
        return rendezvous.listen()

    (first, *others), _ = meet(work)
    assert str(first) == "the directory is full"
    assert [str(other) for other in others] == ["rank 0 did not begin: the directory is full"] * 2


def test_a_short_timeout_is_not_needed_for_the_process_group() -> None:
    """A client that meets rank 0's next store on the address, at once after they parted."""

    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            rendezvous.send({})
        else:
            rendezvous.listen()
        address = rendezvous._address()
        rendezvous.part()
        store = TCPStore(*address, world_size=2, is_master=rank == 0, timeout=timedelta(seconds=20))
        store.set(str(rank), "there")
        store.wait([str(1 - rank)], timedelta(seconds=20))
        value = store.get(str(1 - rank))
        time.sleep(0.5)  # the server lives as long as rank 0's store
        return value

    found, _ = meet(work, ranks=2)
    assert found == [b"there", b"there"]
