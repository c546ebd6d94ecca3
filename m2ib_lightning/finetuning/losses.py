"""Contrastive losses over the pairs of all ranks.

Legend: B pairs of this rank, N of all ranks, E embedding size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor


def contrastive_loss(image: Tensor, text: Tensor, scale: Tensor, positive: tuple[Tensor, Tensor], own: slice) -> Tensor:
    r"""CLIP's loss (Radford et al., ICML 2021) of this rank's rows, with several positives.

    For image *i* with positives P(i),

    .. math::
        -\frac{1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n \notin P(i)} e^{s_{in}}}

    and likewise for captions: other positives stay out of the denominator. With one positive each this is CLIP's cross
    entropy. The mean over ranks of this mean over B is the loss of the global batch, and memory is B x N, not N x N.

    Args:
        image: (N, E) normalised.
        text: (N, E) normalised.
        scale: (), what cosines are multiplied with.
        positive: (B, N) bool: which captions belong to this rank's pictures, and which pictures to its captions.
        own: which rows are this rank's.
    """
    rows = scale * image[own] @ text.T  # (B, N)
    columns = scale * text[own] @ image.T
    return (_one_way(rows, positive[0]) + _one_way(columns, positive[1])) / 2


def _one_way(logits: Tensor, positive: Tensor) -> Tensor:
    others = torch.logsumexp(logits.masked_fill(positive, -torch.inf), dim=1, keepdim=True)  # (B, 1)
    each = F.softplus(others - logits)  # (B, N)
    return ((each * positive).sum(1) / positive.sum(1)).mean()


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positive: Tensor, own: slice) -> Tensor:
    r"""SigLIP's loss (Zhai et al., ICCV 2023) of this rank's rows.

    :math:`-\frac1B \sum_{ij} \log \sigma(y_{ij} (s_{ij} + b))` with y = 1 where they belong together (``positive``,
    (B, N)), else -1.
    """
    logits = scale * image[own] @ text.T + bias
    labels = 2.0 * positive - 1.0
    return -F.logsigmoid(labels * logits).sum() / len(logits)


def similarity_loss(image: Tensor, text: Tensor) -> Tensor:
    """What M2IB minimises: minus the mean cosine (B, E) of pairs, each half against the other's clean embedding."""
    return -F.cosine_similarity(image, text, dim=-1).mean()
