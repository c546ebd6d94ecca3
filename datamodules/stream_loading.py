"""Batches of pairs from a stream: each rank, and each of its worker processes, reads its own share."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.fingerprint import fingerprint
from m2ib_lightning.pairs.loading import is_worker_death, loader_options, stoppable_iterator
from m2ib_lightning.pairs.pair import Pair, PairBatch, PairStream, PreparedPair, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.run.done_rows import DoneRows, code_of

_UNKNOWN_POSITION = 2**62
"""Position of every pair outside the first shard: its place in the source is unknown, so it is not drawn."""


class StreamLoader:
    """Loads the pairs of a stream in batches.

    Args:
        dataset: this rank's share of the stream.
        batch_size: pairs per batch.
        num_workers: worker processes; 0 loads in the main process.

    Raises:
        M2IBError: if a worker dies. The pairs that it had read ahead are lost; a resumed run reads them again.
    """

    def __init__(self, dataset: StreamDataset, batch_size: int, num_workers: int) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.num_workers = num_workers

    def __iter__(self) -> Iterator[PairBatch]:
        loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            **loader_options(self.num_workers),
            collate_fn=self.dataset.preparer.collate,
        )
        try:
            yield from stoppable_iterator(loader.__iter__)
        except RuntimeError as error:
            if not is_worker_death(error):
                raise
            raise M2IBError(
                f"a process that reads the stream died ({error}). Finished pairs are kept: run the same command with "
                "resume=true to read the rest"
            ) from error


class StreamDataset(IterableDataset[PreparedPair | Pair]):
    """One rank's share of a stream, as prepared pairs.

    Args:
        stream: the stream of all pairs.
        preparer: preparer of the model.
        rank: index of this process.
        ranks: number of processes.
        chunk: number of pairs that are downloaded together.
        pictures: number of first pairs that keep a copy of the picture for display; -1 for all.
        limit: number of first pairs to load; every rank then reads all of them to count. None for all.
        done: pairs that already have a row in the results.
    """

    def __init__(
        self,
        stream: PairStream,
        preparer: Preparer,
        *,
        rank: int = 0,
        ranks: int = 1,
        chunk: int = 8,
        pictures: int = 0,
        limit: int | None = None,
        done: DoneRows | None = None,
    ) -> None:
        self.stream = stream
        self.preparer = preparer
        self.rank, self.ranks = rank, ranks
        self.chunk = chunk
        self.pictures = pictures
        self.limit = limit
        self.done = done or DoneRows()

    def __iter__(self) -> Iterator[PreparedPair | Pair]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        share = self._pairs(self.rank + self.ranks * number, self.ranks * workers)
        while chunk := list(islice(share, self.chunk)):
            raws = self.preparer.download([replace(raw, fingerprint=fingerprint(raw)) for _, raw in chunk])
            for (position, _), raw in zip(chunk, raws, strict=True):
                keep = self.pictures < 0 or position < self.pictures
                yield self.preparer.prepare(raw, keep_picture=keep, position=position)

    def _pairs(self, reader: int, readers: int) -> Iterator[tuple[int, RawPair]]:
        """The pairs and positions that one of the reading processes gets."""
        pairs = self._by_shard(reader, readers) if self.limit is None else self._counted(reader, readers, self.limit)
        done: Collection[int] = ()
        name = None
        for shard, position, raw in pairs:
            if name != self.stream.names[shard]:
                name = self.stream.names[shard]
                done = self.done.of(name)
            if code_of(raw.key) not in done:
                yield position, raw

    def _by_shard(self, reader: int, readers: int) -> Iterator[tuple[int, int, RawPair]]:
        for shard, member, members in shares(len(self.stream.names), reader, readers):
            for row, pairs in enumerate(self.stream.rows(shard)):
                if row % members == member:
                    yield from ((shard, _position(shard, row), raw) for raw in pairs)

    def _counted(self, reader: int, readers: int, limit: int) -> Iterator[tuple[int, int, RawPair]]:
        pairs = islice(in_source_order(self.stream), limit)
        yield from (pair for number, pair in enumerate(pairs) if number % readers == reader)


def in_source_order(stream: PairStream) -> Iterator[tuple[int, int, RawPair]]:
    """Yield (shard, position, pair) for every pair of a stream, in source order."""
    for shard in range(len(stream.names)):
        for row, pairs in enumerate(stream.rows(shard)):
            yield from ((shard, _position(shard, row), raw) for raw in pairs)


def _position(shard: int, row: int) -> int:
    return row if shard == 0 else _UNKNOWN_POSITION


def shares(shards: int, reader: int, readers: int) -> list[tuple[int, int, int]]:
    """Return the shards that one reader reads, as (shard, member, members).

    The reader keeps every ``members``-th row of the shard, starting at row ``member``. With fewer shards than readers,
    several readers share a shard, and each of them reads through all of it.

    >>> shares(5, reader=1, readers=2)
    [(1, 0, 1), (3, 0, 1)]
    >>> [shares(2, reader, 5) for reader in range(5)]
    [[(0, 0, 3)], [(1, 0, 2)], [(0, 1, 3)], [(1, 1, 2)], [(0, 2, 3)]]
    """
    if shards >= readers:
        return [(shard, 0, 1) for shard in range(reader, shards, readers)]
    shard = reader % shards
    return [(shard, reader // shards, len(range(shard, readers, shards)))]
