"""Retrieval recall: whether a matching caption is among the first K of a picture, and the other way round.

Legend: N pairs, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ROWS = 256
"""Number of pictures, or captions, that are ranked at a time."""

Positives = Callable[[slice], Tensor]
"""Function from a slice of rows to the columns that belong to them: (rows, N) bool."""


def recalls(
    image: Tensor, text: Tensor, captions: Positives, pictures: Positives, ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Return retrieval recall at each K in both directions, with several positives allowed.

    Args:
        image: (N, E), normalised embeddings of the pictures.
        text: (N, E), normalised embeddings of the captions.
        captions: function from a slice of pictures to the captions that belong to them.
        pictures: function from a slice of captions to the pictures that belong to them.
        ranks: the values of K; those above N are left out.

    Returns:
        ``image_to_text@K`` and ``text_to_image@K``: the share of rows with a positive among the K highest. Ties at the
        K-th place are broken by the sort.
    """
    directions = (("image_to_text", image, text, captions), ("text_to_image", text, image, pictures))
    possible = [k for k in ranks if k <= len(image)]
    return {
        f"{name}@{k}": value
        for name, query, key, positives in directions
        for k, value in zip(possible, _one_way(query, key, positives, possible), strict=True)
    }


def _one_way(query: Tensor, key: Tensor, positives: Positives, ranks: Sequence[int]) -> list[float]:
    if not ranks:
        return []
    hits = torch.zeros(len(ranks))
    for first in range(0, len(query), _ROWS):
        rows = slice(first, min(first + _ROWS, len(query)))
        highest = (query[rows] @ key.T).topk(max(ranks), dim=1).indices
        is_positive = torch.gather(positives(rows), 1, highest)
        hits += torch.tensor([float(is_positive[:, :k].any(1).sum()) for k in ranks])
    return (hits / len(query)).tolist()
