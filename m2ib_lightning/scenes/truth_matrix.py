"""Which captions are true of which scenes. With 30 kinds of object, a caption is often true of other scenes too."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.scenes.objects import UNSAID, Attributes

_ABSENT = -9  # fills the rows of scenes and captions with fewer objects or phrases


def truth_matrix(scenes: list[list[Attributes]], captions: list[list[Attributes]]) -> NDArray[np.bool_]:
    """Return which captions are true of which scenes.

    A caption is true if each of its phrases fits an object, and any two of its phrases fit two different objects.

    Args:
        scenes: attributes of the objects of each scene.
        captions: attributes that the phrases of each caption state.

    Returns:
        Truth (scenes, captions), bool.
    """
    objects = _padded(scenes, _ABSENT)  # (S, O, 3)
    phrases = _padded(captions, _ABSENT)  # (C, P, 3)
    used = phrases[..., 0] != _ABSENT  # (C, P)
    same = objects[:, None, None] == phrases[None, :, :, None]  # (S, C, P, O, 3)
    unsaid = phrases[None, :, :, None] == UNSAID
    present = objects[:, None, None, :, 0] != _ABSENT
    fits = (same | unsaid).all(-1) & present  # (S, C, P, O)
    candidates = fits.sum(-1)  # (S, C, P)
    true = ((candidates > 0) | ~used[None]).all(-1)
    for i in range(phrases.shape[1]):
        for j in range(i):
            shared = (fits[:, :, i] & fits[:, :, j]).sum(-1)
            distinct = candidates[:, :, i] * candidates[:, :, j] > shared
            true &= distinct | ~(used[:, i] & used[:, j])[None]
    return np.asarray(true, dtype=np.bool_)


def _padded(rows: list[list[Attributes]], fill: int) -> NDArray[np.int8]:
    table = np.full((len(rows), max(map(len, rows)), 3), fill, np.int8)
    for index, row in enumerate(rows):
        table[index, : len(row)] = row
    return table
