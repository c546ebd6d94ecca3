"""Pairs that already have a row in the table of a run."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from m2ib_lightning.pairs.pair import PairSource
from m2ib_lightning.run.table import tables


def done_keys(folder: Path) -> set[str]:
    """Return the keys of all rows in the folder of a table."""
    return set(_keys(folder))


def remaining_positions(source: PairSource, count: int, done: set[str]) -> Iterator[int]:
    """Yield the positions, among the first ``count`` pairs, whose key is not in ``done``."""
    return (index for index in range(count) if source.key(index) not in done)


class DoneRows:
    """Pairs of some shards that already have a row; each takes eight bytes of memory.

    Args:
        folder: the folder of the run's table; None for no rows.
        names: names of the shards; rows of other shards are ignored.
    """

    def __init__(self, folder: Path | None = None, names: Collection[str] = ()) -> None:
        self._codes: dict[str, array[int]] = {name: array("q") for name in names}
        for key in _keys(folder) if folder is not None else ():
            codes = self._codes.get(key.rpartition(":")[0])
            if codes is not None:
                codes.append(code_of(key))

    def of(self, name: str) -> Collection[int]:
        """Return the codes (see ``code_of``) of a shard's pairs that have a row."""
        return frozenset(self._codes.get(name, ()))


def code_of(key: str) -> int:
    """Return the row and the item of a pair's key, packed into one number.

    >>> code_of("a.tar:3") == 3 << 20, code_of("a.tar:3.0") == (3 << 20) + 1
    (True, True)
    """
    row, _, item = key.rpartition(":")[2].partition(".")
    return (int(row) << 20) + (int(item) + 1 if item else 0)


def _keys(folder: Path) -> Iterable[str]:
    for table in tables(folder, ["key"]):
        yield from table["key"].to_pylist()
