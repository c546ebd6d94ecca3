r"""The objective of M2IB (Wang et al., 2023): little information, high similarity.

.. math::
    L = \beta \, \frac{1}{T D} \sum_{t, d} I_{t d} - \frac1K \sum_k \cos(e_k, e)

The losses of a batch are summed, never averaged, because with a mean Adam's epsilon would change the result.
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
        information: mean nats per channel, over the tokens that the tower reads.
        similarity: mean cosine over the draws.
    """

    loss: Tensor
    information: Tensor
    similarity: Tensor


def mean_information(information: Tensor, valid: Tensor) -> Tensor:
    """Return the mean (B,) of nats (B, T, D) over the channels and the ``valid`` (B, T) tokens, those that are read."""
    weight = valid.to(information.dtype)
    return (information.mean(-1) * weight).sum(-1) / weight.sum(-1)


def similarities(embeddings: Tensor, target: Tensor) -> Tensor:
    """Return the cosines (B, K) of each draw's embedding (B, K, E) with the pair's target (B, E)."""
    return F.cosine_similarity(embeddings, target.unsqueeze(1), dim=-1)
