"""Scores of a pair's maps that need no model: localisation against the ground truth, and structure."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from m2ib_lightning.metrics import (
    auroc,
    average_precision,
    best_iou,
    complexity,
    iou,
    mass_accuracy,
    pointing_game,
    rank_accuracy,
    sparseness,
)
from m2ib_lightning.pairs.truth import Mask
from m2ib_lightning.results.attribution import Attribution

_LONGEST_SIDE = 512  # pixels

_LOCALISATION = {
    "image_pointing": pointing_game,
    "image_mass": mass_accuracy,
    "image_rank": rank_accuracy,
    "image_iou": iou,
    "image_best_iou": best_iou,
    "image_auroc": auroc,
    "image_ap": average_precision,
}


def localisation(result: Attribution) -> dict[str, float]:
    """Score a pair's maps against the mask of the named object and against the content words.

    Scores that need a ground truth that the source lacks are left out. The raw map is resized to the picture; pixels
    that the model did not see do not count.
    """
    scores: dict[str, float] = {}
    truth = result.pair.truth
    if truth is not None and truth.mask is not None:
        scores |= against_mask(result, truth.mask)
    content = None if truth is None else truth.content_tokens(result.pair.token_offsets)
    if content is not None:
        scores["text_auroc"] = float(auroc(torch.from_numpy(result.text_saliency), torch.tensor(content)))
    return scores


def against_mask(result: Attribution, mask: Mask) -> dict[str, float]:
    """Score the image's map against a mask; NaN for a mask that is empty within the crop that the model saw.

    Pictures of more than 512 pixels are scored at that size: the maps have no more detail, and sorting takes time.
    """
    width, height = result.pair.image_size
    scale = min(1.0, _LONGEST_SIDE / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    saliency = torch.from_numpy(result.saliency_at(*size))
    seen = ~saliency.isnan()
    if scale < 1:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    target = torch.tensor(mask)  # a copy: the mask may be read-only
    if seen.all():
        return {name: float(metric(saliency, target)) for name, metric in _LOCALISATION.items()}
    return {name: float(metric(saliency[seen], target[seen])) for name, metric in _LOCALISATION.items()}


def structure(result: Attribution) -> dict[str, float]:
    """Score how concentrated a pair's maps are, over patches and over tokens."""
    image, text = torch.from_numpy(result.image_saliency), torch.from_numpy(result.text_saliency)
    return {
        "image_sparseness": float(sparseness(image)),
        "image_complexity": float(complexity(image)),
        "text_sparseness": float(sparseness(text)),
        "text_complexity": float(complexity(text)),
    }
