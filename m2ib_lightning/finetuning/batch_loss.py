"""The loss of a global batch: embeddings and signatures of all ranks, positives, and the configured loss.

Legend: B pairs of this rank, N of all ranks, E embedding size; C captions of this rank, M of all ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.finetuning.losses import contrastive_loss, sigmoid_loss, similarity_loss
from m2ib_lightning.finetuning.network import TowerOutput
from m2ib_lightning.finetuning.positives import caption_signatures, picture_signatures, positives
from m2ib_lightning.finetuning.ranks import Ranks
from m2ib_lightning.pairs.pair import Pair


def batch_loss(
    name: str,
    encoder: Encoder,
    outputs: Mapping[Modality, TowerOutput],
    pairs: Sequence[Pair],
    hard_negatives: int,
    ranks: Ranks,
) -> Tensor:
    """Return this rank's part of the loss, a scalar in float32 at least; its mean over ranks is the global loss.

    Args:
        name: ``contrastive``, ``sigmoid`` or ``similarity``.
        encoder: the model, for its temperature and bias.
        outputs: this rank's outputs for B pictures and C captions.
        pairs: the B pairs.
        hard_negatives: number of hard negatives of each pair.
        ranks: the ranks of the training.
    """
    image, text = outputs["image"], outputs["text"]
    with torch.autocast(image.embedding.device.type, enabled=False):
        if name == "similarity":
            return similarity_loss(image.embedding, text.clean.detach()) + similarity_loss(
                text.embedding, image.clean.detach()
            )
        return _contrast(name, encoder, outputs, pairs, hard_negatives, ranks)


def _contrast(
    name: str,
    encoder: Encoder,
    outputs: Mapping[Modality, TowerOutput],
    pairs: Sequence[Pair],
    hard_negatives: int,
    ranks: Ranks,
) -> Tensor:
    images, texts = (ranks.gather(unit(outputs[m].embedding)) for m in MODALITIES)  # (N, E), (M, E)
    pictures = ranks.gather(picture_signatures(pairs).to(images.device))
    captions = ranks.gather(caption_signatures(pairs, hard_negatives).to(images.device))
    own_pictures, own_captions = (ranks.own_rows(len(outputs[m].embedding)) for m in MODALITIES)
    rows = positives(pictures[own_pictures], captions)  # (B, M)
    scale = encoder.family.scale(encoder.model)
    if name == "sigmoid":
        bias = getattr(encoder.model, "logit_bias", scale.new_zeros(()))
        return sigmoid_loss(images, texts, scale, bias, rows, own_pictures)
    columns = positives(pictures, captions[own_captions]).T  # (C, N)
    answered = ranks.gather(columns.any(1).sum()[None]).float().mean()
    return contrastive_loss(images, texts, scale, (rows, columns), (own_pictures, own_captions), answered)


def unit(embedding: Tensor) -> Tensor:
    """Return normalised embeddings, in float32 at least."""
    return F.normalize(embedding.to(torch.promote_types(embedding.dtype, torch.float32)), dim=-1)
