"""Tokens that the text tower never reads: they carry no information."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.tower_attribution import Floats


def token_saliency(pair: Pair, saliency: NDArray[np.floating], read: NDArray[np.bool_]) -> tuple[Pair, Floats]:
    """Return the saliency of a caption's tokens, which is 0 where the tower does not read, and mark these tokens.

    A tower with causal attention reads no token behind the one that it pools at. What an optimisation or a control
    gives to such a token means nothing.

    Args:
        pair: the pair.
        saliency: (T,) saliency of all tokens that the tower gets, special tokens included.
        read: (T,) whether the tower reads each of these tokens.

    Returns:
        The pair with ``unread``, and the saliency (tokens,) of its caption.
    """
    unread = [index for index, position in enumerate(pair.token_positions) if not read[position]]
    values = np.array(saliency[pair.token_positions])
    values[unread] = 0
    return replace(pair, unread=unread) if unread else pair, values
