"""The base class of the data modules: batches, workers, order, and the limit."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from numpy.typing import NDArray
from typing_extensions import override

from m2ib_lightning.config import Config, DataConfig
from m2ib_lightning.datamodules.stream_loading import StreamDataset, StreamLoader, in_source_order, shares
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.loading import PairLoader
from m2ib_lightning.pairs.pair import PairBatch, PairSource, PairStream
from m2ib_lightning.pairs.prepare import PairDataset, Preparer
from m2ib_lightning.registry import Registry
from m2ib_lightning.run.done_rows import DoneRows

DATAMODULES: Registry[type[PairDataModule]] = Registry("data source", "register_datamodule")


def register_datamodule(name: str, datamodule: type[PairDataModule]) -> None:
    """Register a data module under a name, for ``data.name``.

    Raises:
        ValueError: if the name is taken.
    """
    DATAMODULES.register(name, datamodule)


class PairDataModule(LightningDataModule):
    """Loads batches of pairs in source order. A subclass overrides ``open_source`` and ``from_config``.

    Every rank gets its own share, and no pair is repeated or dropped. From a source that can be indexed, a rank takes
    every ``world_size``-th of the remaining pairs. From a stream, it takes whole shards, or every n-th row of a shard.

    Args:
        preparer: the preparer of the model that reads the pairs (``LoadedModel.preparer``).
        batch_size: pairs per batch; None for 8 on a CPU and 32 on a GPU.
        num_workers: worker processes; None for 1 on a CPU, and all cores but one (at most 8) with a GPU.
        limit: number of first pairs to load; None for all.
        pictures: number of each rank's first pairs that keep a copy of the picture for display; -1 for all.
        probed: number of first pairs that get other captions to score maps with: gibberish, and that of another pair.

    Attributes:
        positions: positions of the pairs that a resumed run has left to explain; None for all.
        finished: folder of the results table whose pairs a stream skips; None to skip none.
    """

    default_workers: int | None = None

    def __init__(
        self,
        preparer: Preparer,
        *,
        batch_size: int | None = None,
        num_workers: int | None = None,
        limit: int | None = None,
        pictures: int = 0,
        probed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (("batch_size", batch_size, 1), ("num_workers", num_workers, 0), ("limit", limit, 1)):
            if value is not None and value < least:
                raise M2IBError(f"data.{name} must be at least {least}, got {value}")
        on_gpu = torch.cuda.is_available()
        self.preparer = preparer
        self.batch_size = batch_size or (32 if on_gpu else 8)
        fallback = self.default_workers if self.default_workers is not None else (_spare_cores() if on_gpu else 1)
        self.num_workers = fallback if num_workers is None else num_workers
        self.limit = limit
        self.pictures = pictures
        self.probed = probed
        self.positions: NDArray[np.int64] | None = None
        self.finished: Path | None = None
        self.allow_zero_length_dataloader_with_multiple_devices = True
        self._source: PairSource | PairStream | None = None

    @classmethod
    @abstractmethod
    def from_config(cls, config: Config, preparer: Preparer) -> PairDataModule:
        """Return the data module that a configuration describes."""

    @abstractmethod
    def open_source(self) -> PairSource | PairStream:
        """Open the source of the pairs; this is called once.

        Raises:
            M2IBError: if the source can't be opened; the message names what exists.
        """

    @property
    def source(self) -> PairSource | PairStream:
        """The source of all pairs, opened on first use."""
        if self._source is None:
            self._source = self.open_source()
        return self._source

    @property
    def total(self) -> int | None:
        """The number of pairs to explain; None for a stream, whose length is unknown."""
        if isinstance(self.source, PairStream):
            return None
        return len(self.source) if self.limit is None else min(self.limit, len(self.source))

    def __len__(self) -> int:
        if self.total is None:
            raise TypeError("a stream has no length")
        return self.total

    def keys(self) -> Iterator[str]:
        """Return the keys of the pairs to explain, in source order; a stream is read for them, but not decoded."""
        source = self.source
        if isinstance(source, PairStream):
            return (raw.key for _, _, raw in islice(in_source_order(source), self.limit))
        return (source.key(index) for index in range(len(self)))

    @override
    def setup(self, stage: str) -> None:
        if self.total == 0:
            raise M2IBError("the data source has no pairs")

    @override
    def train_dataloader(self) -> Iterable[PairBatch]:
        """Return the batches of this rank."""
        rank, ranks = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        pictures = self.pictures * ranks
        if isinstance(self.source, PairStream):
            return self._stream(self.source, rank, ranks, pictures)
        positions = np.arange(len(self)) if self.positions is None else self.positions
        return self._loader(self.source, positions[rank::ranks], pictures)

    def calibration_batches(self, pairs: int) -> Iterable[PairBatch]:
        """Return batches from the start of the source, enough to measure ``prior=data`` on ``pairs`` pairs."""
        if isinstance(self.source, PairStream):
            dataset = StreamDataset(self.source, self.preparer, limit=2 * pairs)
            return StreamLoader(dataset, self.batch_size, num_workers=0)  # one reader keeps the source order
        return self._loader(self.source, np.arange(min(len(self.source), 2 * pairs)), pictures=0)

    def _loader(self, source: PairSource, positions: NDArray[np.int64], pictures: int) -> PairLoader:
        dataset = PairDataset(source, self.preparer, pictures, self.probed)
        return PairLoader(dataset, positions, self.batch_size, self.num_workers)

    def _stream(self, stream: PairStream, rank: int, ranks: int, pictures: int) -> StreamLoader:
        workers = max(1, self.num_workers)
        readers = [rank + ranks * worker for worker in range(workers)]
        shards = {shard for reader in readers for shard, _, _ in shares(len(stream.names), reader, ranks * workers)}
        names = [name for shard, name in enumerate(stream.names) if shard in shards or self.limit is not None]
        dataset = StreamDataset(
            stream,
            self.preparer,
            rank=rank,
            ranks=ranks,
            chunk=self.batch_size,
            pictures=pictures,
            limit=self.limit,
            done=DoneRows(self.finished, names),
        )
        return StreamLoader(dataset, self.batch_size, self.num_workers)


def _spare_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def refuse_path(data: DataConfig) -> None:
    """Refuse ``data.path`` for a source that makes its own pairs.

    Raises:
        M2IBError: if there is a path.
    """
    if data.path is not None:
        raise M2IBError(
            f"data.name={data.source} paints its own pictures and reads no data.path={data.path!r}: leave out "
            "data.name to explain the pairs of that file (data.name=captions), or leave out data.path"
        )


def loader_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments that every data module takes from a configuration."""
    data, output = config.data, config.output
    if config.task == "evaluate":
        pictures, probed = config.evaluate.pictures, config.evaluate.probed
    elif config.task == "tune":
        pictures, probed = 0, 0
    else:
        pictures = -1 if output.heatmaps < 0 else max(output.heatmaps, output.tensorboard_images)
        probed = 0
    return {
        "batch_size": data.batch_size,
        "num_workers": data.num_workers,
        "limit": data.limit,
        "pictures": pictures,
        "probed": probed,
    }
