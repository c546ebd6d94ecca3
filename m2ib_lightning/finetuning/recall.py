"""Retrieval recall: is a right caption among the first K of a picture, and the other way round?

Legend: N pairs, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_ROWS = 256
"""Pictures, or captions, that are looked at together."""

Right = Callable[[slice], Tensor]
"""Which of all (rows, N) belong to those rows, bool."""


def recalls(
    image: Tensor, text: Tensor, captions: Right, pictures: Right, ranks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """Recall at each K, both ways, with several positives allowed.

    Args:
        image: (N, E) normalised.
        text: (N, E) normalised.
        captions: of some pictures, which captions belong to them.
        pictures: of some captions, which pictures belong to them.
        ranks: the Ks; those above N are left out.

    Returns:
        ``image_to_text@K`` and ``text_to_image@K``: the share of rows with a positive among the K highest. Pairs that
        are tied with the K-th count as they stand in the order.
    """
    ways = (("image_to_text", image, text, captions), ("text_to_image", text, image, pictures))
    kept = [k for k in ranks if k <= len(image)]
    return {
        f"{name}@{k}": value
        for name, query, key, right in ways
        for k, value in zip(kept, _one_way(query, key, right, kept), strict=True)
    }


def _one_way(query: Tensor, key: Tensor, right: Right, ranks: Sequence[int]) -> list[float]:
    if not ranks:
        return []
    hits = torch.zeros(len(ranks))
    for first in range(0, len(query), _ROWS):
        rows = slice(first, min(first + _ROWS, len(query)))
        highest = (query[rows] @ key.T).topk(max(ranks), dim=1).indices
        found = torch.gather(right(rows), 1, highest)
        hits += torch.tensor([float(found[:, :k].any(1).sum()) for k in ranks])
    return (hits / len(query)).tolist()
