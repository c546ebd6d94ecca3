"""The pairs of a search: some to choose settings on, others to compare the choice with the presets on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import Pair, PairBatch


@dataclass(frozen=True)
class TuningPairs:
    """Readable pairs in memory, in two parts that share no picture.

    Attributes:
        selection: batches that the settings are tried on.
        confirmation: batches that the choice is compared with the presets on.
        failed: pairs that could not be read, which are left out.
    """

    selection: list[PairBatch]
    confirmation: list[PairBatch]
    failed: list[Pair] = field(default_factory=list)


def read_tuning_pairs(batches: Iterable[PairBatch], selection: int, confirmation: int) -> TuningPairs:
    """Read pairs and split them.

    The first pictures go to the selection, each with all of its pairs, until it has enough pairs. Where there are too
    few pairs, both parts shrink in proportion.

    Args:
        batches: batches of the source. No more are read than are needed.
        selection: number of pairs to choose on.
        confirmation: number of pairs to compare on.

    Raises:
        M2IBError: if fewer than two pictures can be read.
    """
    read: list[PairBatch] = []
    failed: list[Pair] = []
    missing = selection + confirmation
    for batch in batches:
        failed += batch.failed
        if len(batch):
            read.append(batch.some(batch.first(missing)))
            missing -= len(read[-1])
        if missing == 0:
            break
    pairs = [pair for batch in read for pair in batch.pairs]
    wanted = round(len(pairs) * selection / (selection + confirmation))
    chosen = _first_pictures(pairs, wanted)
    if not chosen or all(pair.image in chosen for pair in pairs):
        raise M2IBError(
            "task=tune needs pairs of at least two pictures, some to choose settings on and others to compare them on; "
            f"{len(pairs)} pairs could be read and {len(failed)} could not"
            + (f" (the first: {failed[0].error})" if failed else "")
        )
    return TuningPairs(list(_part(read, chosen, True)), list(_part(read, chosen, False)), failed)


def _first_pictures(pairs: list[Pair], wanted: int) -> set[str]:
    """Return the first pictures that have the wanted number of pairs together, but not all of them."""
    counts: dict[str, int] = {}
    for pair in pairs:
        counts[pair.image] = counts.get(pair.image, 0) + 1
    chosen: set[str] = set()
    total = 0
    for picture in list(counts)[:-1]:
        if chosen and total >= wanted:
            break
        chosen.add(picture)
        total += counts[picture]
    return chosen


def _part(batches: list[PairBatch], chosen: set[str], inside: bool) -> Iterator[PairBatch]:
    for batch in batches:
        rows = [row for row, pair in enumerate(batch.pairs) if (pair.image in chosen) == inside]
        if rows:
            yield batch.some(rows)
