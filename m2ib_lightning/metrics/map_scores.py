"""The numbers that need only a pair's map and what is known of the pair."""

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

_LONGEST = 512  # pixels

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
    """Against the mask of what the caption names, and its content words; what the source does not know is left out.

    The raw map is laid on the picture at its own size; pixels that the model did not see do not count.
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
    """The image's localisation scores; NaN for a mask that is empty in what the model saw.

    Pictures of more than 512 pixels are judged at that size: the maps have no more detail, and sorting takes its time.
    """
    width, height = result.pair.image_size
    scale = min(1.0, _LONGEST / max(width, height))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    saliency = torch.from_numpy(result.saliency_at(*size))
    seen = ~saliency.isnan()
    if scale < 1:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    target = torch.from_numpy(mask)
    if seen.all():
        return {name: float(metric(saliency, target)) for name, metric in _LOCALISATION.items()}
    return {name: float(metric(saliency[seen], target[seen])) for name, metric in _LOCALISATION.items()}


def structure(result: Attribution) -> dict[str, float]:
    """How concentrated the maps are, per patch and per word."""
    image, text = torch.from_numpy(result.image_saliency), torch.from_numpy(result.text_saliency)
    return {
        "image_sparseness": float(sparseness(image)),
        "image_complexity": float(complexity(image)),
        "text_sparseness": float(sparseness(text)),
        "text_complexity": float(complexity(text)),
    }
