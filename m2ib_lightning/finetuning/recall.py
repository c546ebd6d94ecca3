"""Retrieval recall: is a matching caption among the first K of a picture, and the other way round?

Legend: N pairs, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ROWS = 256
"""How many pictures, or captions, are ranked at a time."""

Positives = Callable[[slice], Tensor]
"""Given some rows, which of all N columns belong to them: (rows, N) bool."""


def recalls(
    image: Tensor, text: Tensor, captions: Positives, pictures: Positives, ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Return recall at each K, both ways, with several positives allowed.

    Args:
        image: (N, E) normalised.
        text: (N, E) normalised.
        captions: which captions belong to some pictures.
        pictures: which pictures belong to some captions.
        ranks: the Ks; those above N are left out.

    Returns:
        ``image_to_text@K`` and ``text_to_image@K``: the share of rows with a positive among the K highest. Ties at the
        K-th place are broken by the sort.
    """
    ways = (("image_to_text", image, text, captions), ("text_to_image", text, image, pictures))
    possible = [k for k in ranks if k <= len(image)]
    return {
        f"{name}@{k}": value
        for name, query, key, positives in ways
        for k, value in zip(possible, _one_way(query, key, positives, possible), strict=True)
    }


def _one_way(query: Tensor, key: Tensor, positives: Positives, ranks: Sequence[int]) -> list[float]:
    if not ranks:
        return []
    hits = torch.zeros(len(ranks))
    for first in range(0, len(query), _ROWS):
        rows = slice(first, min(first + _ROWS, len(query)))
        highest = (query[rows] @ key.T).topk(max(ranks), dim=1).indices
        right = torch.gather(positives(rows), 1, highest)
        hits += torch.tensor([float(right[:, :k].any(1).sum()) for k in ranks])
    return (hits / len(query)).tolist()
