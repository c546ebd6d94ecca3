"""Coalitions: which players of a game stay, and the regression on them.

Legend: m coalitions, n players, E outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Coalitions:
    """Coalitions and the least squares fit of a game's values on them.

    Attributes:
        masks: (m, n) bool, True for a player that stays.
        solve: (n + 1, m), pseudo-inverse of the regression's matrix: values to the constant and the players' effects.
    """

    masks: Tensor
    solve: Tensor

    def effects(self, values: Tensor) -> Tensor:
        """Return each player's effect (n, E) on the values (m, E), one row for each coalition."""
        return (self.solve.to(values) @ values)[1:]


def drawn_coalitions(players: int, count: int, p: float, seed: Sequence[int]) -> Coalitions:
    """Draw coalitions in which each player stays with probability p.

    A player's draws depend only on the seed and on its index.
    """
    draws = np.random.default_rng(seed).random((players, count)).T
    return _coalitions(draws < p, np.ones(count))


def all_coalitions(players: int, p: float) -> Coalitions:
    """Return every coalition, weighted by its probability if each player stays with probability p."""
    stays = (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)
    kept = stays.sum(1)
    return _coalitions(stays, p**kept * (1 - p) ** (players - kept))


def _coalitions(stays: NDArray[np.bool_], weights: NDArray[np.float64]) -> Coalitions:
    root = np.sqrt(weights)[:, None]
    design = np.concatenate([np.ones((len(stays), 1)), stays], axis=1)
    return Coalitions(torch.from_numpy(stays), torch.from_numpy(np.linalg.pinv(root * design) * root.T))
