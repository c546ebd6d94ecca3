"""Load batches of pairs in order; a worker process that dies costs at most one pair."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from m2ib_lightning.pairs.pair import Pair, PairBatch, PreparedPair
from m2ib_lightning.pairs.prepare import PairDataset
from m2ib_lightning.pairs.waiting import WAITING, ignore_stop_signals


class PairLoader:
    """Loads the pairs at given positions, in batches.

    A worker process can die: a decoder crashes, or the system is out of memory. The current batch is then loaded pair
    by pair, each pair in its own process. A pair whose process dies again becomes a row with ``error``.

    Args:
        dataset: prepared pairs by position.
        positions: positions to load, in order.
        batch_size: pairs in a batch.
        num_workers: worker processes; 0 loads in the main process.
    """

    def __init__(self, dataset: PairDataset, positions: NDArray[np.int64], batch_size: int, num_workers: int) -> None:
        self.dataset = dataset
        self.positions = positions
        self.batch_size = batch_size
        self.num_workers = num_workers

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[PairBatch]:
        next_batch = 0
        while next_batch < len(self):
            try:
                for batch in self._batches(next_batch):
                    next_batch += 1
                    yield batch
            except RuntimeError as error:
                if not is_worker_death(error):
                    raise
                yield self._one_by_one(next_batch)
                next_batch += 1

    def _batches(self, first: int) -> Iterator[PairBatch]:
        loader: DataLoader[Any] = DataLoader(
            Subset(self.dataset, self.positions[first * self.batch_size :]),  # type: ignore[arg-type]  # Subset accepts an array
            batch_size=self.batch_size,
            **loader_options(self.num_workers),
            collate_fn=self.dataset.preparer.collate,
        )
        yield from stoppable_iterator(loader.__iter__)

    def _one_by_one(self, batch: int) -> PairBatch:
        chosen = self.positions[batch * self.batch_size : (batch + 1) * self.batch_size]
        collated = self.dataset.preparer.collate([self._load_isolated(int(position)) for position in chosen])
        return collated.pin_memory() if torch.cuda.is_available() else collated

    def _load_isolated(self, position: int) -> PreparedPair | Pair:
        """One pair, loaded in its own process; a failed pair if that process dies."""
        loader: DataLoader[Any] = DataLoader(
            Subset(self.dataset, [position]), batch_size=None, num_workers=1, worker_init_fn=ignore_stop_signals
        )
        try:
            (item,) = stoppable_iterator(loader.__iter__)
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
            key = self.dataset.source.key(position)  # only the key: reading the pair could kill this process too
            why = f"the process that read it died ({error})"
            item = Pair(key=key, id=key, image=key, caption=None, position=position, error=why)
        return item


def loader_options(num_workers: int) -> dict[str, Any]:
    """Return the ``DataLoader`` arguments that all loaders of pairs share."""
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": False,
        "worker_init_fn": ignore_stop_signals,
    }


def stoppable_iterator(begin: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """Iterate over a data loader; a stop signal ends the wait for the next batch.

    PyTorch's SIGCHLD handler is removed again. It raises in the main thread as soon as a worker dies, even inside a
    batch or while a file is written. Without it, the loader notices the death at the next batch, within seconds.

    Args:
        begin: function that returns the iterator of the loader.

    Raises:
        RuntimeError: if a worker died (``is_worker_death``).
    """
    in_main = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    handler = signal.getsignal(signal.SIGCHLD) if in_main else None
    iterator = begin()
    if in_main:
        signal.signal(signal.SIGCHLD, handler)
    process, exhausted = os.getpid(), object()
    try:
        while True:
            with WAITING:
                batch = next(iterator, exhausted)
            if batch is exhausted:
                return
            yield batch
    except BaseException:
        if os.getpid() == process:
            _kill_workers(iterator)
        raise


def _kill_workers(iterator: Any) -> None:
    """Kill the workers of a loader: one may read for long, or wait forever for the lock of a dead one."""
    for worker in getattr(iterator, "_workers", ()):
        worker.kill()


def is_worker_death(error: RuntimeError) -> bool:
    """Return whether an error of PyTorch's data loader means that a worker process died."""
    return "DataLoader worker" in str(error)
