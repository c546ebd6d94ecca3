"""Batches of pairs, in order, from processes that decode; one that dies costs at most the pair it died of."""

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
from m2ib_lightning.pairs.waiting import WAITING, ignore_in_workers


class PairLoader:
    """The pairs at some positions, as batches.

    When a worker process dies (a decoder that crashes, the system out of memory), the batch that was to come is read
    pair by pair, each in a process of its own: a pair whose process dies again becomes a row with ``error``.

    Args:
        dataset: the pairs.
        positions: which of them, in which order.
        batch_size: pairs at a time.
        num_workers: processes that decode; 0 for none.
    """

    def __init__(self, dataset: PairDataset, positions: NDArray[np.int64], batch_size: int, num_workers: int) -> None:
        self.dataset = dataset
        self.positions = positions
        self.batch_size = batch_size
        self.num_workers = num_workers

    def __len__(self) -> int:
        return -(-len(self.positions) // self.batch_size)

    def __iter__(self) -> Iterator[PairBatch]:
        following = 0
        while following < len(self):
            try:
                for batch in self._batches(following):
                    following += 1
                    yield batch
            except RuntimeError as error:
                if not worker_died(error):
                    raise
                yield self._one_by_one(following)
                following += 1

    def _batches(self, first: int) -> Iterator[PairBatch]:
        loader: DataLoader[Any] = DataLoader(
            Subset(self.dataset, self.positions[first * self.batch_size :]),  # type: ignore[arg-type] # an array will do
            batch_size=self.batch_size,
            **loading(self.num_workers),
            collate_fn=self.dataset.preparer.collate,
        )
        yield from quiet_iterator(loader.__iter__)

    def _one_by_one(self, batch: int) -> PairBatch:
        chosen = self.positions[batch * self.batch_size : (batch + 1) * self.batch_size]
        collated = self.dataset.preparer.collate([self._alone(int(position)) for position in chosen])
        return collated.pin_memory() if torch.cuda.is_available() else collated

    def _alone(self, position: int) -> PreparedPair | Pair:
        loader: DataLoader[Any] = DataLoader(
            Subset(self.dataset, [position]), batch_size=None, num_workers=1, worker_init_fn=ignore_in_workers
        )
        try:
            (item,) = quiet_iterator(loader.__iter__)
        except RuntimeError as error:
            if not worker_died(error):
                raise
            key = self.dataset.source.key(position)  # and no more: this process would die of it, too
            why = f"the process that read it died ({error})"
            item = Pair(key=key, id=key, image=key, caption=None, position=position, error=why)
        return item


def loading(num_workers: int) -> dict[str, Any]:
    """What all data loaders here have in common."""
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": False,
        "worker_init_fn": ignore_in_workers,
    }


def quiet_iterator(begin: Callable[[], Iterator[Any]]) -> Iterator[Any]:
    """What a data loader yields, without PyTorch's SIGCHLD handler, and without waiting once the process is to stop.

    That handler raises when a worker dies, wherever the main thread may be just then: in the middle of a batch, or of a
    file. Without it the loader notices within seconds, when it is asked for the next batch. ``begin`` makes the
    iterator of the loader.
    """
    handled = threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGCHLD")
    before = signal.getsignal(signal.SIGCHLD) if handled else None
    iterator = begin()
    if handled:
        signal.signal(signal.SIGCHLD, before)
    process, end = os.getpid(), object()
    try:
        while True:
            with WAITING:
                batch = next(iterator, end)
            if batch is end:
                return
            yield batch
    except BaseException:
        if os.getpid() == process:
            _kill_workers(iterator)
        raise


def _kill_workers(iterator: Any) -> None:
    """Nobody wants what they read any more: one may be at it for long, or wait for ever for what a dead one held."""
    for worker in getattr(iterator, "_workers", ()):
        worker.kill()


def worker_died(error: RuntimeError) -> bool:
    """Whether PyTorch's data loader says so."""
    return "DataLoader worker" in str(error)
