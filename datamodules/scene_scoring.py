"""Score the maps of scenes against the mask of each object and the owner of each word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import max_pool2d

from m2ib_lightning.datamodules.scenes import SceneExample
from m2ib_lightning.metrics import auroc, average_precision
from m2ib_lightning.results.attribution import Attribution, Floats
from m2ib_lightning.scenes.scene_captions import FILLER_WORD

POINT_TOLERANCE = 2  # pixels
_IOU_THRESHOLD = 0.5


def score_scenes(results: Iterable[Attribution], examples: Iterable[SceneExample]) -> list[dict[str, float]]:
    """Return the scores of each scene, as ``score_scene`` defines them.

    Raises:
        ValueError: if there is no scene, or if the numbers of results and scenes differ.
    """
    scores = [score_scene(result, example) for result, example in zip(results, examples, strict=True)]
    if not scores:
        raise ValueError("there is no scene to score")
    return scores


def means(scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each score over the scenes in which the score is defined."""
    return {name: float(np.nanmean([score[name] for score in scores])) for name in scores[0]}


def score_scene(result: Attribution, example: SceneExample) -> dict[str, float]:
    """Score the heatmap and the text saliency of one scene; the heatmap has the scene's size.

    Returns:
        ``point``: the highest pixel is on a mentioned object, or within 2 px of it (1 or 0).
        ``point_exact``: the highest pixel is on a mentioned object (1 or 0).
        ``pick``: the object with the highest mean is a mentioned one (1 or 0).
        ``mass``: share of the heatmap on the mentioned objects.
        ``mass_ratio``: ``mass`` divided by the share of the area that the mentioned objects cover.
        ``iou``: intersection over union of the pixels above 0.5 and the mentioned objects.
        ``average_precision``: average precision of the pixels, with those of the mentioned objects as positives.
        ``text_auroc``: AUROC of content words against filler; NaN if the caption has only one kind.
    """
    heatmap = result.image_heatmap
    objects = example.scene.masks > 0.5  # (objects, H, W)
    target: NDArray[np.bool_] = np.any(objects[: example.mentioned], axis=0)
    object_means = [heatmap[mask].mean() for mask in objects]
    lit = heatmap >= _IOU_THRESHOLD
    inside = heatmap[target].sum() / max(float(heatmap.sum()), 1e-9)
    content = np.array(example.caption.owners) != FILLER_WORD
    return {
        "point": float(_dilated(target, POINT_TOLERANCE).ravel()[heatmap.argmax()]),
        "point_exact": float(target.ravel()[heatmap.argmax()]),
        "pick": float(max(object_means[: example.mentioned]) > max(object_means[example.mentioned :], default=-1.0)),
        "mass": float(inside),
        "mass_ratio": float(inside / target.mean()),
        "iou": float((lit & target).sum() / max((lit | target).sum(), 1)),
        "average_precision": float(average_precision(torch.from_numpy(heatmap), torch.from_numpy(target))),
        "text_auroc": _auroc(result.text_saliency, content),
    }


def _dilated(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    grown = max_pool2d(torch.from_numpy(mask)[None].float(), 2 * pixels + 1, stride=1, padding=pixels)
    return np.asarray(grown[0].numpy() > 0)


def _auroc(saliency: Floats, content: NDArray[np.bool_]) -> float:
    if len(saliency) != len(content):
        raise ValueError(
            f"the caption has {len(content)} words and {len(saliency)} tokens: one token per word expected"
        )
    return float(auroc(torch.from_numpy(saliency), torch.from_numpy(content)))
