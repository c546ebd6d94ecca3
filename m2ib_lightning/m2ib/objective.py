r"""The objective of M2IB (Wang et al., 2023): little information, high similarity.

.. math::
    L = \beta \, \frac{1}{T D} \sum_{t, d} I_{t d} - \frac1K \sum_k \cos(e_k, e)

The losses of a batch are summed, never averaged. A mean would shrink each gradient relative to Adam's epsilon, so the
result of a pair would depend on the batch size.

Legend: B pairs, K noise draws, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor


class Terms(NamedTuple):
    """The objective of each pair and its two terms, each (B,).

    Attributes:
        loss: beta * information - similarity.
        information: mean nats per token and channel, over the tokens that the tower reads.
        similarity: mean cosine over the noise draws.
    """

    loss: Tensor
    information: Tensor
    similarity: Tensor


def mean_information(information: Tensor, valid: Tensor) -> Tensor:
    """Return the mean information (B,) of each pair, in nats per token and channel.

    Args:
        information: (B, T, D) in nats.
        valid: (B, T) bool, True for the tokens that the tower reads; only these count.
    """
    weights = valid.to(information.dtype)
    return (information.mean(-1) * weights).sum(-1) / weights.sum(-1)


def similarities(embeddings: Tensor, target: Tensor) -> Tensor:
    """Return the cosines (B, K) of each draw's embedding (B, K, E) with the pair's target (B, E)."""
    return F.cosine_similarity(embeddings, target.unsqueeze(1), dim=-1)
