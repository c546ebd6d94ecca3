"""What belongs to a sequence besides its hidden states: the tokens that the tower reads, and where it pools.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Layout:
    """The layout of N sequences of T tokens. It travels with their hidden states from the cut to the pooling.

    Attributes:
        valid: (N, T) bool, True for the tokens that the tower reads.
        pooled: (N,) position of the token that pooling reads; None if pooling reads all tokens.
        padded: whether some tokens may be padding that the tower does not read.
        keys: (N, T) bool, the tokens that any token attends to; None if they are the valid ones. They differ where the
            tower pools at a token that is not attended to, such as CoCa's class token.
    """

    valid: Tensor
    pooled: Tensor | None
    padded: bool = True
    keys: Tensor | None = None

    @property
    def attended(self) -> Tensor:
        """(N, T) bool, the tokens that any token attends to."""
        return self.valid if self.keys is None else self.keys

    def rows(self, part: slice | Tensor) -> Layout:
        """Return the layout of some of the sequences, by a slice or by their indices."""
        keys = None if self.keys is None else self.keys[part]
        return Layout(self.valid[part], None if self.pooled is None else self.pooled[part], self.padded, keys)

    def repeated(self, count: int) -> Layout:
        """Return the layout of ``count`` draws of each sequence, which lie next to each other."""
        pooled = None if self.pooled is None else self.pooled.repeat_interleave(count)
        keys = None if self.keys is None else self.keys.repeat_interleave(count, 0)
        return Layout(self.valid.repeat_interleave(count, 0), pooled, self.padded, keys)

    def cut(self, tokens: int) -> Layout:
        """Return the layout of the first ``tokens`` tokens of each sequence."""
        keys = None if self.keys is None else self.keys[:, :tokens]
        return Layout(self.valid[:, :tokens], self.pooled, self.padded, keys)

    def split(self, count: int) -> list[Layout]:
        """Return the layouts of successive groups of at most ``count`` sequences."""
        return [self.rows(slice(start, start + count)) for start in range(0, len(self.valid), count)]

    def lengths(self) -> list[int]:
        """Return how many leading tokens hold all that the tower reads. With padding, this waits for the device."""
        sequences, tokens = self.valid.shape
        if not self.padded:
            return [tokens] * sequences
        counted = self.valid * torch.arange(1, tokens + 1, device=self.valid.device)
        return counted.amax(-1).tolist()


@dataclass(frozen=True)
class Hidden:
    """The hidden states of a batch at the cut.

    Attributes:
        z: (B, T, D) hidden states.
        layout: the tokens that the tower reads, and where it pools.
    """

    z: Tensor
    layout: Layout

    @property
    def valid(self) -> Tensor:
        """(B, T) bool, True for the tokens that the tower reads."""
        return self.layout.valid

    def rows(self, part: slice | Tensor) -> Hidden:
        """Return the hidden states of some of the sequences, by a slice or by their indices."""
        return Hidden(self.z[part], self.layout.rows(part))
