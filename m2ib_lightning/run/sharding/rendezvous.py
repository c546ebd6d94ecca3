"""Rendezvous of the ranks before the work: rank 0 sends one message, which says which run this is.

The children of a process find the message in their environment. Ranks of another launcher (torchrun, Slurm, or the
first process of another node) ask rank 0 for it through a ``TCPStore`` at ``MASTER_ADDR:MASTER_PORT``. Ranks that share
nothing use the network for nothing else, so a rank that dies later blocks no other. Ranks that share gradients call
``leave`` before their process group uses the same address.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from types import TracebackType

from lightning.fabric.plugins.environments import ClusterEnvironment
from torch.distributed import DistError, TCPStore

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.run.sharding.heartbeat import SILENT_SECONDS, Heartbeats

LAUNCH_VARIABLE = "M2IB_LAUNCH"
"""Environment variable that holds the message for child processes."""

_CONNECT_SECONDS = 600.0
"""Seconds within which rank 0 must be there; the ranks may start at different times."""

_START_SECONDS = 1800.0
"""Seconds within which rank 0 must answer, and the others must be ready, while all of them live."""

_NOTE_SECONDS = 30.0
"""Seconds after which a rank says that it waits for rank 0."""

_CONNECT_TIMEOUT = timedelta(seconds=5)
"""Timeout of one attempt to connect; signals are handled between attempts."""

_LATE_SECONDS = 60.0
"""Seconds for which rank 0 stays after a failure, to tell it to ranks that come late."""

_CLOSE_SECONDS = 20.0
"""Seconds for which rank 0 stays after a signal, and for which ranks may leave."""


class Rendezvous:
    """Context in which rank 0 sends one message and the other ranks receive it.

    Entering it connects the ranks. If rank 0 fails inside before it has sent a message, the others receive its error.

    Args:
        environment: Lightning's cluster environment, with the address and the port; None if no rank uses the network.
        rank: rank of this process.
        listeners: number of ranks that receive the message over the network; children of a process do not.
        check: function called while this rank waits; it raises to end the wait.
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
        self._sent = False
        self._store: TCPStore | None = None
        self._has_confirmed = self._has_departed = False
        # torchrun's agent hosts a store at the address, and restarts all ranks when one dies
        self._agent_hosts = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        self._message = f"m2ib/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._confirmations, self._failure = f"{self._message}/confirmations", f"{self._message}/failure"
        self._closing, self._departures = f"{self._message}/closing", f"{self._message}/departures"
        self._end, self._heartbeats = f"{self._message}/end", Heartbeats(rank, f"{self._message}/life")

    def __enter__(self) -> Rendezvous:
        if self.rank == 0 and self._environment is not None:
            try:
                self._store = self._connect()
            except (DistError, RuntimeError) as failure:
                raise M2IBError(
                    f"rank 0 can't be met at {self._address_text()} ({_first_line(failure)}): is another run there? "
                    "Set MASTER_PORT to a free port"
                ) from None
        elif self._environment is not None and LAUNCH_VARIABLE not in os.environ:
            self._store = self._connect_to_rank_0()
        if self._store is not None:
            self._heartbeats.start(self._store)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._store is not None and error is not None:
                with suppress(DistError, RuntimeError):  # the host of the store has ended
                    self._tell(self._store, error)
        finally:
            self._heartbeats.stop()

    def _tell(self, store: TCPStore, error: BaseException) -> None:
        """Tell the other ranks that this one has failed."""
        if self.rank > 0:
            store.set(self._failure, f"rank {self.rank}: {error}")
            self.confirm()
            self._depart()
            return
        store.set(self._message, json.dumps({"failure" if self._sent else "error": str(error)}))
        store.set(self._end, str(error))
        if self._agent_hosts or store.add(self._departures, 0) >= self.listeners:
            return
        seconds = _LATE_SECONDS if isinstance(error, Exception) else _CLOSE_SECONDS
        print(
            f"rank 0 stops: {error}\nIt stays for up to {seconds:.0f} s, to tell this to the other ranks",
            file=sys.stderr,
            flush=True,
        )
        _poll(lambda: store.add(self._departures, 0) >= self.listeners, seconds)

    def send(self, message: dict[str, str]) -> None:
        """Send the message to the other ranks; called by rank 0."""
        self._sent = True
        if self._store is not None:
            self._store.set(self._message, json.dumps(message))

    def receive(self) -> dict[str, str]:
        """Return the message of rank 0; called by the other ranks.

        Raises:
            M2IBError: if rank 0 failed, or can't be reached.
        """
        if LAUNCH_VARIABLE in os.environ:
            message: dict[str, str] = json.loads(os.environ[LAUNCH_VARIABLE])
            return message
        store, end = self._store, time.monotonic() + _START_SECONDS
        assert store is not None, "call receive() inside `with rendezvous:`"
        try:
            while not store.check([self._message]):
                self._wait(end, store)
            message = json.loads(store.get(self._message))
        except (DistError, RuntimeError) as failure:
            raise self._unreachable(_first_line(failure)) from None
        if "error" in message:
            raise M2IBError(f"rank 0 did not begin: {message['error']}")
        if "failure" in message:
            raise self._not_begun(message["failure"])
        return message

    def confirm(self) -> None:
        """Confirm the message, so that rank 0 may exit; called by the other ranks."""
        if not self._has_confirmed:
            self._has_confirmed = True
            self._add_confirmations(1)

    def _depart(self) -> None:
        """Let rank 0 know that this rank needs its store no more."""
        if self._store is not None and not self._has_departed:
            self._has_departed = True
            self._store.add(self._departures, 1)

    def wait_for_confirmations(self, seconds: float = 60.0) -> None:
        """Wait until the other ranks have confirmed the message.

        Rank 0 calls it before it exits, because its store ends with it.

        Args:
            seconds: longest time to wait.
        """
        _poll(lambda: self._add_confirmations(0) >= self.listeners, seconds)

    def leave(self) -> None:
        """Disconnect from the store, which frees the address; called by all ranks.

        Rank 0 waits for the confirmations of the others. The others wait until rank 0 has closed its store.

        Raises:
            M2IBError: if another rank failed, or did not arrive in time.
        """
        store, end = self._store, time.monotonic() + _START_SECONDS
        if store is None:
            return
        try:
            if self.rank == 0:
                self._leave_last(store, end)
            else:
                self.confirm()
                while not store.check([self._closing]):
                    if store.check([self._end]):
                        raise self._not_begun(store.get(self._end).decode())
                    self._wait(end, store)
                self._depart()
        except (DistError, RuntimeError) as failure:
            raise self._unreachable(_first_line(failure)) from None
        self._heartbeats.stop()
        if self.rank > 0 and not self._agent_hosts:
            _poll(lambda: not self._is_hosted(store), _CLOSE_SECONDS)
        self._store = None

    def _leave_last(self, store: TCPStore, end: float) -> None:
        """Wait on rank 0 until the others are ready, then until they have left."""
        ready = False
        while not ready:
            ready = self._add_confirmations(0) >= self.listeners
            if store.check([self._failure]):  # a rank that fails confirms, too
                raise M2IBError(f"another rank did not begin: {store.get(self._failure).decode()}")
            if not ready:
                self._wait(end, store)
        store.set(self._closing, "")
        _poll(lambda: store.add(self._departures, 0) >= self.listeners, _CLOSE_SECONDS)

    def _is_hosted(self, store: TCPStore) -> bool:
        try:
            store.check([self._message])
        except (DistError, RuntimeError):
            return False
        return True

    def _add_confirmations(self, number: int) -> int:
        """Add to the number of confirmations and return it; once the store has ended, every rank counts."""
        try:
            return self.listeners if self._store is None else int(self._store.add(self._confirmations, number))
        except (DistError, RuntimeError):
            return self.listeners

    def _connect_to_rank_0(self) -> TCPStore:
        """Connect as soon as rank 0 hosts its store."""
        began, noted = time.monotonic(), False
        while True:
            try:
                return self._connect()
            except (DistError, RuntimeError):
                waited = time.monotonic() - began
                if waited > _NOTE_SECONDS and not noted:
                    noted = True
                    where, minutes = self._address_text(), _CONNECT_SECONDS / 60
                    print(f"rank {self.rank} waits up to {minutes:.0f} minutes for rank 0 at {where}", file=sys.stderr)
                self._wait(began + _CONNECT_SECONDS)

    def _wait(self, end: float, store: TCPStore | None = None) -> None:
        """Wait a moment for another rank.

        Raises:
            M2IBError: if the wait took too long, or the rank that is waited for is dead.
        """
        self._check()
        if store is not None:
            silent = self._heartbeats.silent(store)
            if silent and self.rank > 0:
                raise self._unreachable(f"no sign of life for {SILENT_SECONDS:.0f} s")
            if silent:
                raise M2IBError(
                    f"rank {', '.join(silent)} began and died before the work: no sign of life for "
                    f"{SILENT_SECONDS:.0f} s. Its own log may say why"
                )
        if time.monotonic() > end:
            if self.rank == 0:
                minutes = _START_SECONDS / 60
                raise M2IBError(f"not all of the {self.listeners} other ranks were ready in {minutes:.0f} minutes")
            raise self._unreachable("no answer in time")
        time.sleep(0.1)

    def _not_begun(self, reason: str) -> M2IBError:
        return M2IBError(f"rank {self.rank} could not learn from rank 0 which run this is: rank 0 stopped: {reason}")

    def _unreachable(self, reason: str) -> M2IBError:
        return M2IBError(
            f"rank {self.rank} could not learn from rank 0 which run this is: rank 0 has stopped, or can't be reached "
            f"at {self._address_text()} ({reason})"
        )

    def _address(self) -> tuple[str, int]:
        assert self._environment is not None
        return self._environment.main_address, self._environment.main_port

    def _address_text(self) -> str:
        return ":".join(map(str, self._address()))

    def _connect(self) -> TCPStore:
        hosts = self.rank == 0 and not self._agent_hosts
        address, port = self._address()
        return TCPStore(address, port, is_master=hosts, wait_for_workers=False, timeout=_CONNECT_TIMEOUT)


def _poll(done: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done() and time.monotonic() < end:
        time.sleep(0.05)


def _first_line(failure: Exception) -> str:
    return str(failure).splitlines()[0]
