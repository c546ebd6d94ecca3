"""The objective of M2IB: little information, high similarity."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor


class Terms(NamedTuple):
    """The objective of each pair, and its two terms; all (B,).

    Attributes:
        loss: beta * information - similarity.
        information: mean nats per token and channel, over the tokens that the tower reads.
        similarity: mean cosine over the draws.
    """

    loss: Tensor
    information: Tensor
    similarity: Tensor


def objective(information: Tensor, embeddings: Tensor, target: Tensor, valid: Tensor, beta: float) -> Terms:
    r"""The M2IB objective (Wang et al., 2023), one number per pair.

    .. math::
        L = \beta \, \frac{1}{T D} \sum_{t, d} I_{t d} - \frac1K \sum_k \cos(e_k, e)

    Sum it over the pairs of a batch, never average: Adam's epsilon would make a mean change the result.

    Args:
        information: (B, T, D) nats.
        embeddings: (B, K, E), the embedding of each draw.
        target: (B, E), the other tower's embedding of the clean pair.
        valid: (B, T) bool, the tokens that the tower reads.
        beta: weight of the information.
    """
    weight = valid.to(information.dtype)
    mean_information = (information.mean(-1) * weight).sum(-1) / weight.sum(-1)
    similarity = F.cosine_similarity(embeddings, target.unsqueeze(1), dim=-1).mean(-1)
    return Terms(beta * mean_information - similarity, mean_information, similarity)
