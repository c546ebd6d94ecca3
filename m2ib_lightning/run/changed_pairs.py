"""Pairs that changed in the source after a run wrote their rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.pairs.fingerprint import file_state, fingerprint, is_same, without_truth
from m2ib_lightning.pairs.pair import PairSource, PairStream, RawPair
from m2ib_lightning.run.parts import SCHEMA
from m2ib_lightning.run.table import tables

States = Mapping[str, Any]
"""Size and time of change of each file of a source, by the file's name in keys."""


_SAMPLED = 10_000
"""Largest number of pairs in the digest of a source."""

_COLUMNS = ("key", "fingerprint", "error")
_SCHEMA = SCHEMA.append(pa.field("mask_resized", pa.bool_()))
"""Columns of rows with and without scores."""


@dataclass(frozen=True)
class ChangedPairs:
    """Pairs whose rows are no longer those of the source.

    Attributes:
        changed: keys of the pairs with another caption, image or, where it counts, ground truth than before.
        gone: keys that the source no longer has.
    """

    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.changed) + len(self.gone)

    def __str__(self) -> str:
        parts = [
            f"{len(keys)} {what} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})"
            for keys, what in (
                (self.changed, "changed in the source since their rows were written, and are done again"),
                (self.gone, "no longer in the source; their rows are removed"),
            )
            if keys
        ]
        return "pairs: " + "; ".join(parts)


def find_changed(
    source: PairSource | PairStream, folder: Path, states: Path, limit: int | None = None, *, truth: bool = False
) -> ChangedPairs:
    """Compare the fingerprints in a table with those of its source.

    A shard whose file has the size and time of change from before is not read again; nor is a table with its pictures
    (and masks) inside. Rows without a fingerprint are left alone, and so is the ground truth of rows of versions whose
    fingerprints did not cover it. A failed row is compared without the image's content, because ``retry_failed`` is for
    files that come late.

    Args:
        source: the source of all pairs.
        folder: folder of the table.
        states: file that holds the states of the source's files at the last start.
        limit: number of first pairs to compare; None for all.
        truth: whether the rows depend on the ground truth, as those of ``task=evaluate`` do.
    """
    if getattr(source, "generated", False):
        return ChangedPairs()
    rows = _Rows(folder, truth)
    if not rows.fingerprints:
        return ChangedPairs()
    before = _read_states(states)
    if isinstance(source, PairStream):
        return _in_shards(source, rows, before, limit)
    return _in_table(source, rows, before, limit)


class _Rows:
    """The fingerprints of the rows in a table, by key, and the keys of failed rows.

    Args:
        folder: folder of the table.
        truth: whether the rows depend on the ground truth.
    """

    def __init__(self, folder: Path, truth: bool) -> None:
        self.truth = truth
        self.fingerprints: dict[str, str] = {}
        self.failed: set[str] = set()
        self.uncovered: set[str] = set()
        """Keys of pairs whose ground truth was scored, and is not in the fingerprint."""
        for table in tables(folder, [*_COLUMNS, "mask_resized"] if truth else list(_COLUMNS), _SCHEMA):
            columns = [table[name].to_pylist() for name in _COLUMNS]
            scored = table["mask_resized"].to_pylist() if truth else [None] * table.num_rows
            for key, value, error, resized in zip(*columns, scored, strict=True):
                if value is None:
                    continue
                self.fingerprints[key] = value
                if error is not None:
                    self.failed.add(key)
                if resized is not None and value == without_truth(value):
                    self.uncovered.add(key)

    def differs(self, raw: RawPair) -> bool:
        """Return whether a pair has a row of another pair."""
        before = self.fingerprints.get(raw.key)
        if before is None:
            return False
        truth = self.truth and raw.key not in self.uncovered
        return not is_same(before, fingerprint(raw), failed=raw.key in self.failed, truth=truth)


def _in_table(source: PairSource, rows: _Rows, before: States, limit: int | None) -> ChangedPairs:
    now = _states_of(source)
    if now and now == before and _lies_inside(source[0], rows.truth):
        return ChangedPairs()
    keys = [source.key(index) for index in range(len(source))]
    reached = range(len(keys) if limit is None else min(limit, len(keys)))
    changed = [keys[index] for index in reached if keys[index] in rows.fingerprints and rows.differs(source[index])]
    return ChangedPairs(changed, list(rows.fingerprints.keys() - set(keys)))


def _lies_inside(raw: RawPair, truth: bool) -> bool:
    """Return whether a pair's picture, and its mask if it counts, lie in the table."""
    has_mask_file = truth and raw.truth is not None and isinstance(raw.truth.mask, Path)
    return isinstance(raw.image, bytes) and not has_mask_file


def _in_shards(source: PairStream, rows: _Rows, before: States, limit: int | None) -> ChangedPairs:
    if limit is not None:  # the pairs are counted from the first shard on
        every = (raw for shard in range(len(source.names)) for raw in _pairs_of(source, shard))
        return ChangedPairs([raw.key for raw in islice(every, limit) if rows.differs(raw)])
    now = _states_of(source)
    keys_of: dict[str, set[str]] = {
        name: set() for name in source.names if name not in now or now[name] != before.get(name)
    }
    for key in rows.fingerprints if keys_of else ():
        if (name := key.rpartition(":")[0]) in keys_of:
            keys_of[name].add(key)
    result = ChangedPairs()
    for shard, name in enumerate(source.names):
        if not (keys := keys_of.get(name)):
            continue
        for raw in _pairs_of(source, shard):
            keys.discard(raw.key)
            if rows.differs(raw):
                result.changed.append(raw.key)
        result.gone.extend(keys)
    return result


def _pairs_of(source: PairStream, shard: int) -> Iterator[RawPair]:
    for row in source.rows(shard):
        yield from row


def digest_of(source: PairSource, count: int) -> str | None:
    """Return a digest of the fingerprints of a source's first ``count`` pairs; None if it makes its pairs itself.

    Of more than 10,000 pairs, 10,000 that are evenly spaced count.
    """
    if getattr(source, "generated", False):
        return None
    digest = hashlib.blake2b(digest_size=8)
    for index in np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).round().astype(np.int64)).tolist():
        digest.update(
            f"{source.key(index)} {without_truth(fingerprint(source[index]))}\n".encode("utf-8", "surrogatepass")
        )
    return digest.hexdigest()


def save_states(source: PairSource | PairStream, states: Path) -> None:
    """Write the sizes and times of change of a source's files, for the next start."""
    atomic_write_text(states, json.dumps(_states_of(source)) + "\n")


def _states_of(source: PairSource | PairStream) -> dict[str, list[int]]:
    """Return the states of the source's local files; a file that is not seen is left out."""
    files: Mapping[str, str | Path] = getattr(source, "files", {})
    states = {name: file_state(file) for name, file in files.items()}
    return {name: list(state) for name, state in states.items() if state is not None}


def _read_states(path: Path) -> States:
    try:
        states: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # no start yet, or a damaged file: then everything is compared
        return {}
    return states if isinstance(states, dict) else {}
