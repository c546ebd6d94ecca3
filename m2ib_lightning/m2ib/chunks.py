"""What goes through a suffix at a time, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch

from m2ib_lightning.encoder.towers import Tower

_CPU_ROWS = 2048
_GPU_ROWS = 2**18
_TENSORS_KEPT = 20
"""Per block and row, what the backward pass needs takes about so many times D numbers."""


@dataclass(frozen=True)
class Chunk:
    """Some draws of some pairs, cut to the longest of the pairs."""

    pairs: slice
    draws: slice
    tokens: int

    @property
    def sequences(self) -> int:
        """Draws of all its pairs together."""
        return (self.pairs.stop - self.pairs.start) * (self.draws.stop - self.draws.start)

    @property
    def rows(self) -> int:
        """Tokens of all its draws together."""
        return self.sequences * self.tokens


def plan_chunks(lengths: list[int], draws: int, max_rows: int) -> list[Chunk]:
    """Cut B pairs of so many tokens with K draws each into chunks of at most ``max_rows`` rows.

    A row is one token of one draw of one pair. Neighbours share a chunk while all their draws fit; a pair that is too
    large alone has its draws cut, but never into less than one draw.

    >>> [(c.pairs.start, c.pairs.stop, c.draws.start, c.draws.stop, c.tokens) for c in plan_chunks([5, 6, 30], 2, 24)]
    [(0, 2, 0, 2, 6), (2, 3, 0, 1, 30), (2, 3, 1, 2, 30)]
    """
    chunks = []
    start = 0
    while start < len(lengths):
        stop, longest = start + 1, lengths[start]
        while stop < len(lengths) and (stop + 1 - start) * draws * max(longest, lengths[stop]) <= max_rows:
            longest = max(longest, lengths[stop])
            stop += 1
        largest = max(1, max_rows // longest) if stop == start + 1 else draws
        parts = -(-draws // largest)
        bounds = [draws * part // parts for part in range(parts + 1)]  # as even as can be
        chunks += [Chunk(slice(start, stop), slice(first, last), longest) for first, last in pairwise(bounds)]
        start = stop
    return chunks


def halved(chunks: Iterable[Chunk]) -> int | None:
    """Half the rows of the largest chunk that can be cut: a bound for a plan whose chunks are smaller.

    None if there is nothing to cut, every chunk being one draw of one pair.

    >>> halved(plan_chunks([5, 6, 30], 2, 24)), halved(plan_chunks([5, 6, 30], 2, 6))
    (12, None)
    """
    rows = [chunk.rows for chunk in chunks if chunk.sequences > 1]
    return max(rows) // 2 if rows else None


def default_max_rows(tower: Tower, layer: int, dtype: torch.dtype, device: torch.device) -> int:
    """So many rows that large matrix products are efficient; on a GPU, no more than half of its free memory holds."""
    if device.type != "cuda":
        return _CPU_ROWS
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + unused  # torch holds the latter for the next tensor
    blocks = len(tower.blocks) - layer - 1
    row = _TENSORS_KEPT * tower.width * dtype.itemsize * max(1, blocks)
    return max(_CPU_ROWS, min(_GPU_ROWS, free // 2 // row))
