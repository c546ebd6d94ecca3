"""Retrieval recall: is the right caption among the first K of a picture, and the other way round?

Legend: N pairs, E embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def recalls(image: Tensor, text: Tensor, positive: Tensor, ranks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall at each K, both ways, with several positives allowed.

    Args:
        image: (N, E) normalised.
        text: (N, E) normalised.
        positive: (N, N) bool: picture i and caption j belong together.
        ranks: the Ks; those above N are left out.

    Returns:
        ``image_to_text@K`` and ``text_to_image@K``: the share of rows with a positive among the K highest. Pairs that
        are tied with the K-th count as they stand in the order.
    """
    similarity = image @ text.T
    found = {}
    for name, scores, right in (
        ("image_to_text", similarity, positive),
        ("text_to_image", similarity.T, positive.T),
    ):
        for k in ranks:
            if k <= len(image):
                highest = scores.topk(k, dim=1).indices
                found[f"{name}@{k}"] = float(torch.gather(right, 1, highest).any(1).float().mean())
    return found
