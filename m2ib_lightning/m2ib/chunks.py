"""Chunks: the parts of a batch that go through a suffix one at a time, so that memory is bounded."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import torch

from m2ib_lightning.encoder.towers import Tower

_CPU_ROWS = 2048
_GPU_ROWS = 2**18
_SAVED_TENSORS = 20
"""Approximate number of D-vectors per block and row that are saved for the backward pass."""


@dataclass(frozen=True)
class Chunk:
    """A part of a batch: some draws of some pairs, cut to the length of the longest of these pairs.

    Attributes:
        pairs: range of pairs in the batch.
        draws: range of draws.
        tokens: number of tokens of the longest pair.
    """

    pairs: slice
    draws: slice
    tokens: int

    @property
    def sequences(self) -> int:
        """Number of sequences in the chunk: each draw of each pair is one."""
        return (self.pairs.stop - self.pairs.start) * (self.draws.stop - self.draws.start)

    @property
    def rows(self) -> int:
        """Number of rows in the chunk: each token of each sequence is one."""
        return self.sequences * self.tokens


def plan_chunks(lengths: list[int], draws: int, max_rows: int) -> list[Chunk]:
    """Split a batch into chunks of at most ``max_rows`` rows.

    A row is one token of one draw of one pair. Neighbours share a chunk if all their draws fit. The draws of a pair
    that is itself too large are split, but a chunk holds at least one draw.

    Args:
        lengths: number of tokens of each pair.
        draws: number of draws of each pair.
        max_rows: largest number of rows in a chunk.

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
        draws_that_fit = max(1, max_rows // longest) if stop == start + 1 else draws
        parts = -(-draws // draws_that_fit)
        bounds = [draws * part // parts for part in range(parts + 1)]  # the parts' sizes differ by at most one
        chunks += [Chunk(slice(start, stop), slice(first, last), longest) for first, last in pairwise(bounds)]
        start = stop
    return chunks


def smaller_max_rows(chunks: Iterable[Chunk]) -> int | None:
    """Return a ``max_rows`` for a plan with smaller chunks: half the rows of the largest chunk that can be split.

    The result is None if every chunk is one draw of one pair.

    >>> smaller_max_rows(plan_chunks([5, 6, 30], 2, 24)), smaller_max_rows(plan_chunks([5, 6, 30], 2, 6))
    (12, None)
    """
    rows = [chunk.rows for chunk in chunks if chunk.sequences > 1]
    return max(rows) // 2 if rows else None


def default_max_rows(tower: Tower, layer: int, dtype: torch.dtype, device: torch.device) -> int:
    """Return the default of ``max_rows``: enough rows for efficient matrix products.

    On a GPU, the rows fill at most half of the free memory.

    Args:
        tower: the tower whose suffix runs.
        layer: index of the block after which the tower is cut.
        dtype: compute dtype.
        device: device of the tower.
    """
    if device.type != "cuda":
        return _CPU_ROWS
    cached_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free_bytes = torch.cuda.mem_get_info(device)[0] + cached_bytes
    blocks = len(tower.blocks) - layer - 1
    row_bytes = _SAVED_TENSORS * tower.width * dtype.itemsize * max(1, blocks)
    return max(_CPU_ROWS, min(_GPU_ROWS, free_bytes // 2 // row_bytes))
