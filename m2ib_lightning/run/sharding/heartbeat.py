"""Heartbeats of ranks that wait for each other: a rank that was killed, or whose machine is lost, sends no word."""

from __future__ import annotations

import threading
import time
import weakref

from torch.distributed import DistError, TCPStore

_INTERVAL_SECONDS = 2.0
"""Seconds between two heartbeats of a rank."""

SILENT_SECONDS = 120.0
"""Seconds without a heartbeat after which a rank counts as dead; a rank may load a large model meanwhile."""


class Heartbeats:
    """The heartbeats of this rank, and those of the others that have arrived at a store.

    Args:
        rank: rank of this process.
        prefix: beginning of the names of the store's entries.
    """

    def __init__(self, rank: int, prefix: str) -> None:
        self.rank = rank
        self._prefix = prefix
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._seen: dict[int, tuple[int, float]] = {}
        self._looked = -_INTERVAL_SECONDS

    def start(self, store: TCPStore) -> None:
        """Arrive at a store, and add to a counter in it while the process lives.

        The thread holds the store only while it beats, so the store ends with its owner.
        """
        number = 0
        try:
            if self.rank > 0:
                number = store.add(f"{self._prefix}/arrivals", 1)
            store.set(f"{self._prefix}/{number}/rank", str(self.rank))
        except (DistError, RuntimeError):  # rank 0 has just ended; the next request says so
            return
        arguments = weakref.ref(store), f"{self._prefix}/{number}/beats", self._stopped
        self._thread = threading.Thread(target=_beat, args=arguments, name="m2ib heartbeat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop beating."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def silent(self, store: TCPStore) -> list[str]:
        """Return the ranks that have arrived and are silent for too long; rank 0 looks at all, the others at rank 0.

        Raises:
            RuntimeError: if the host of the store has ended.
        """
        now = time.monotonic()
        if now - self._looked >= _INTERVAL_SECONDS:
            self._looked = now
            for number in range(1, store.add(f"{self._prefix}/arrivals", 0) + 1) if self.rank == 0 else [0]:
                beats = store.add(f"{self._prefix}/{number}/beats", 0)
                if beats != self._seen.get(number, (-1, now))[0]:
                    self._seen[number] = (beats, now)
        dead = [number for number, (_, when) in self._seen.items() if now - when > SILENT_SECONDS]
        return [store.get(f"{self._prefix}/{number}/rank").decode() for number in dead]


def _beat(reference: weakref.ref[TCPStore], key: str, stopped: threading.Event) -> None:
    while not stopped.is_set():
        store = reference()
        if store is None:
            return
        try:
            store.add(key, 1)
        except (DistError, RuntimeError):  # the host of the store has ended
            return
        del store
        stopped.wait(_INTERVAL_SECONDS)
