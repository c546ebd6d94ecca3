"""Contrastive losses over the pairs of all ranks.

Legend: B pairs of this rank, N of all ranks, E embedding size; C captions of this rank, M of all ranks. There are as
many captions as pairs, or more where pairs bring hard negatives.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor


def contrastive_loss(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    positive: tuple[Tensor, Tensor],
    own: tuple[slice, slice],
    answered: Tensor | None = None,
) -> Tensor:
    r"""CLIP's loss (Radford et al., ICML 2021) of this rank's rows, with several positives.

    The loss of image *i* with positives P(i) is

    .. math::
        -\frac{1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n \notin P(i)} e^{s_{in}}}

    The loss of a caption is the same over the images. Other positives stay out of the denominator. With one positive
    each, this is CLIP's cross entropy. A hard negative is a caption that is true of no picture (NegCLIP; Yuksekgonul et
    al., ICLR 2023). It is in the denominators of the pictures and has no term itself. The mean over ranks is the loss
    of the global batch. The loss takes B x M memory, not N x M.

    Args:
        image: (N, E), normalised embeddings of the pictures.
        text: (M, E), normalised embeddings of the captions.
        scale: (), factor of the cosines.
        positive: (B, M) and (C, N) bool: which captions belong to this rank's pictures, and which pictures to its
            captions.
        own: rows of this rank's pictures, and of its captions.
        answered: (), number of a rank's captions that are true of a picture, averaged over ranks; None for all.
    """
    rows = scale * image[own[0]] @ text.T  # (B, M)
    columns = scale * text[own[1]] @ image.T  # (C, N)
    of_images = _terms(rows, positive[0]).mean()
    of_captions = _terms(columns, positive[1]).sum() / (len(columns) if answered is None else answered)
    return (of_images + of_captions) / 2


def _terms(logits: Tensor, positive: Tensor) -> Tensor:
    """Return the loss of each row; 0 for a row without positives."""
    negatives = torch.logsumexp(logits.masked_fill(positive, -torch.inf), dim=1, keepdim=True)
    each = F.softplus(negatives - logits)
    return (each * positive).sum(1) / positive.sum(1).clamp(min=1)


def sigmoid_loss(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, positive: Tensor, own: slice) -> Tensor:
    r"""SigLIP's loss (Zhai et al., ICCV 2023) of this rank's rows.

    :math:`-\frac1B \sum_{ij} \log \sigma(y_{ij} (s_{ij} + b))` with y = 1 where caption j is true of picture i
    (``positive``, (B, M)), else -1.
    """
    logits = scale * image[own] @ text.T + bias
    labels = 2.0 * positive - 1.0
    return -F.logsigmoid(labels * logits).sum() / len(logits)


def similarity_loss(image: Tensor, text: Tensor) -> Tensor:
    """Return minus the mean cosine of B pairs, the fit term of M2IB.

    Args:
        image: (B, E), embeddings of the pictures.
        text: (B, E), embeddings of the captions.
    """
    return -F.cosine_similarity(image, text, dim=-1).mean()
