"""How the other ranks learn from rank 0 which run this is: once, before the work.

The children of a process find it in their environment. Ranks that someone else started (torchrun, Slurm, the first
process of another node) ask rank 0 through a ``TCPStore`` at ``MASTER_ADDR:MASTER_PORT``. Where ranks share nothing,
nothing else goes over the network, and a rank that dies later is missed by nobody; where they share gradients, all
leave the address (``part``) before their process group meets there.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

from lightning.fabric.plugins.environments import ClusterEnvironment
from torch.distributed import DistError, TCPStore

from m2ib_lightning.errors import M2IBError

HANDED = "M2IB_LAUNCH"
"""The environment variable in which children find the message."""

_PATIENCE = 1800.0  # seconds in which rank 0 must begin
_TRY = timedelta(seconds=5)
_LAST_WORDS = 20.0  # seconds in which the others may still hear why rank 0 stopped


class Rendezvous:
    """Rank 0 tells, the others listen.

    Args:
        environment: where address and port come from; None if nobody is to be told.
        rank: of this process.
        listeners: how many ranks ask there; the children of a process do not.
        check: called while this rank waits; raises if it shall not wait any longer.

    Used as a context, it connects, and tells the others when rank 0 fails inside before it has told them anything else.
    """

    def __init__(
        self,
        environment: ClusterEnvironment | None,
        rank: int,
        listeners: int,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self.rank = rank
        self.listeners = listeners
        self._environment = environment
        self._check = check
        self._told = False
        self._store: TCPStore | None = None
        # torchrun's agent keeps a store of its own there, and starts the ranks again when one dies
        self._agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._key = f"m2ib/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._heard, self._failed = f"{self._key}/heard", f"{self._key}/failed"
        self._parted, self._left = f"{self._key}/parted", f"{self._key}/left"

    def __enter__(self) -> Rendezvous:
        if self.rank == 0 and self._environment is not None:
            try:
                self._store = self._connect()
            except (DistError, RuntimeError) as failure:
                where = ":".join(map(str, self._address()))
                first = str(failure).splitlines()[0]
                raise M2IBError(
                    f"rank 0 can't be met at {where} ({first}): is another run there? Set MASTER_PORT to a free port"
                ) from None
        elif self._environment is not None and HANDED not in os.environ:
            self._store = self._reach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._store is None or error is None:
            return
        with suppress(DistError, RuntimeError):  # whoever kept the store has gone
            if self.rank > 0:
                self._store.set(self._failed, f"rank {self.rank}: {error}")
            elif not self._told:
                self._store.set(self._key, json.dumps({"error": str(error)}))
                self.await_confirmations(_LAST_WORDS)

    def send(self, message: dict[str, str]) -> None:
        """Rank 0: what the others are to know."""
        self._told = True
        if self._store is not None:
            self._store.set(self._key, json.dumps(message))

    def await_confirmations(self, seconds: float = 60.0) -> None:
        """Rank 0, before it ends and the store with it: give the others time to hear it."""
        end = time.monotonic() + seconds
        while self._store is not None and time.monotonic() < end and self._add(0) < self.listeners:
            time.sleep(0.05)

    def confirm(self) -> None:
        """The other ranks: rank 0 need not wait for this one any longer."""
        self._add(1)

    def part(self) -> None:
        """All ranks: leave, so that the address is free for others; rank 0 goes last.

        Raises:
            M2IBError: if another rank stopped before, or did not come.
        """
        store, end = self._store, time.monotonic() + _PATIENCE
        if store is None:
            return
        try:
            if self.rank == 0:
                while self._add(0) < self.listeners:
                    if store.check([self._failed]):
                        raise M2IBError(f"another rank did not begin: {store.get(self._failed).decode()}")
                    self._wait(end)
                store.set(self._parted, "")
                self._until(lambda: store.add(self._left, 0) >= self.listeners, _LAST_WORDS)
            else:
                self.confirm()
                while not store.check([self._parted]):
                    self._wait(end)
                store.add(self._left, 1)
        except (DistError, RuntimeError) as failure:
            raise self._unheard(str(failure)) from None
        if self.rank > 0 and not self._agent:
            self._until(lambda: not self._is_there(store), _LAST_WORDS)
        self._store = None

    def _until(self, done: Callable[[], bool], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            time.sleep(0.05)

    def _is_there(self, store: TCPStore) -> bool:
        try:
            store.check([self._key])
        except (DistError, RuntimeError):
            return False
        return True

    def _add(self, number: int) -> int:
        try:
            return self.listeners if self._store is None else int(self._store.add(self._heard, number))
        except (DistError, RuntimeError):  # whoever kept the store has gone
            return self.listeners

    def listen(self) -> dict[str, str]:
        """The other ranks: what rank 0 told.

        Raises:
            M2IBError: if rank 0 failed, or can't be reached.
        """
        if HANDED in os.environ:
            message: dict[str, str] = json.loads(os.environ[HANDED])
            return message
        assert self._store is not None, "listen inside the context"
        end = time.monotonic() + _PATIENCE
        try:
            while not self._store.check([self._key]):
                self._wait(end)
            message = json.loads(self._store.get(self._key))
        except (DistError, RuntimeError) as failure:
            raise self._unheard(str(failure)) from None
        if "error" in message:
            self.confirm()
            raise M2IBError(f"rank 0 did not begin: {message['error']}")
        return message

    def _reach(self) -> TCPStore:
        """Where rank 0 keeps its store, as soon as it does; in short tries, between which signals are heeded."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                return self._connect()
            except (DistError, RuntimeError):
                self._wait(end)

    def _wait(self, end: float) -> None:
        self._check()
        if time.monotonic() > end:
            raise self._unheard(f"no answer in {_PATIENCE / 60:.0f} minutes")
        time.sleep(0.1)

    def _unheard(self, why: str) -> M2IBError:
        where = ":".join(map(str, self._address()))
        return M2IBError(
            f"rank {self.rank} could not learn from rank 0 which run this is, at {where}: it has stopped, or is not "
            f"reached there ({why.splitlines()[0]})"
        )

    def _address(self) -> tuple[str, int]:
        assert self._environment is not None
        return self._environment.main_address, self._environment.main_port

    def _connect(self) -> TCPStore:
        hosts = self.rank == 0 and not self._agent
        address, port = self._address()
        return TCPStore(address, port, is_master=hosts, wait_for_workers=False, timeout=_TRY)
