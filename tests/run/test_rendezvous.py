"""The rendezvous of ranks, and the error that each gets when another fails; each thread stands for a process."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from torch.distributed import TCPStore

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.sharding import Rendezvous, StopSignals, heartbeat
from m2ib_lightning.run.sharding import rendezvous as rendezvous_module
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


@pytest.mark.parametrize("when", ["before it listens", "before it receives", "after it has received"])
def test_a_rank_that_fails_ends_the_others_with_its_reason(when: str) -> None:
    """Rank 2 may connect long after rank 1 has failed and rank 0 has noticed."""
    address: Any = Address()
    noticed = threading.Event()

    def run(rank: int) -> Any:
        try:
            if rank == 2 and when == "before it listens":
                assert noticed.wait(20)
            if rank == 1 and when == "before it listens":
                with Rendezvous(address, 1, 2):
                    raise M2IBError("no such model")
            with Rendezvous(address, rank, 2) as rendezvous:
                if rank == 0:
                    lead(rendezvous)
                elif rank == 1:
                    if when == "after it has received":
                        rendezvous.receive()
                    raise M2IBError("no such model")
                else:
                    rendezvous.receive()
                    rendezvous.leave()
        except M2IBError as error:
            return error.with_traceback(None)
        return "left"

    def lead(rendezvous: Rendezvous) -> None:
        try:
            rendezvous.send({"run": "here"})
            rendezvous.leave()
        except M2IBError:
            noticed.set()
            raise

    began = time.monotonic()
    with ThreadPoolExecutor(3) as threads:
        first, second, third = threads.map(run, range(3))
    assert time.monotonic() - began < 30
    assert "another rank did not begin: rank 1: no such model" in str(first)
    assert str(second) == "no such model"
    assert isinstance(third, M2IBError)
    assert "rank 2 could not learn from rank 0" in str(third)
    assert "no such model" in str(third)


def test_when_rank_0_fails_the_others_receive_its_error() -> None:
    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            raise M2IBError("the directory is full")
        return rendezvous.receive()

    (first, *others), _ = meet(work)
    assert str(first) == "the directory is full"
    assert [str(other) for other in others] == ["rank 0 did not begin: the directory is full"] * 2


@pytest.mark.parametrize("dead", [0, 1])
def test_a_rank_that_dies_without_a_word_ends_the_wait_of_the_others(
    dead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heart stops; the store of a dead rank 0 stays here, as it does where torchrun's agent hosts it."""
    monkeypatch.setattr(heartbeat, "_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 0.3)
    address: Any = Address()
    with Rendezvous(address, 0, 1) as zero, Rendezvous(address, 1, 1) as one:
        if dead == 0:
            zero._heartbeats.stop()
            with pytest.raises(M2IBError, match=r"rank 1 could not learn from rank 0 .*no sign of life"):
                one.receive()
        else:
            zero.send({"run": "here"})
            one._heartbeats.stop()
            with pytest.raises(M2IBError, match="rank 1 began and died before the work"):
                zero.leave()


@pytest.mark.slow
def test_a_rank_that_takes_its_time_is_not_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "_INTERVAL_SECONDS", 0.02)
    monkeypatch.setattr(heartbeat, "SILENT_SECONDS", 1.0)  # of 50 beats, so that a busy machine has time for one

    def work(rank: int, rendezvous: Rendezvous) -> Any:
        if rank == 0:
            time.sleep(1.3)
            rendezvous.send({"run": "here"})
        else:
            rendezvous.receive()
            time.sleep(1.3)
        rendezvous.leave()
        return "left"

    assert meet(work)[0] == ["left"] * 3


def test_rank_0_that_never_comes_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rendezvous_module, "_CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous_module, "_NOTE_SECONDS", 0.0)
    monkeypatch.setattr(rendezvous_module, "_CONNECT_TIMEOUT", timedelta(milliseconds=100))
    address: Any = Address()
    with pytest.raises(M2IBError, match="rank 3 could not learn from rank 0"), Rendezvous(address, 3, 3):
        pass
    assert "rank 3 waits up to" in capsys.readouterr().err


def test_a_process_group_may_use_the_address_at_once() -> None:
    """A client connects to the next store of rank 0 at the same address right after all ranks have left."""
    done = threading.Barrier(2)

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
        done.wait(20)  # the server lives as long as rank 0's store
        return value

    values, _ = meet(work, ranks=2)
    assert values == [b"there", b"there"]
