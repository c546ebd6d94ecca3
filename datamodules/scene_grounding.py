"""Score the groundings of scenes: which unit of the caption belongs to which object."""

from __future__ import annotations

import numpy as np
import torch

from m2ib_lightning.datamodules.scene_scoring import POINT_TOLERANCE
from m2ib_lightning.datamodules.scenes import SceneExample
from m2ib_lightning.metrics import pointing_game
from m2ib_lightning.metrics.unit_scores import confusion, object_means, right_object, right_unit
from m2ib_lightning.results.grounding import Grounding
from m2ib_lightning.results.tower_attribution import Floats
from m2ib_lightning.scenes.scene_captions import FILLER_WORD, Caption


def phrase_spans(caption: Caption) -> list[tuple[int, int]]:
    """Return (start, end) of each noun phrase of a scene's caption, without its article, in characters.

    >>> phrase_spans(Caption(["a", "red", "ring", "and", "a", "star"], [-1, 0, 0, -1, -1, 1], []))
    [(2, 10), (17, 21)]
    """
    spans: dict[int, tuple[int, int]] = {}
    start = 0
    for word, owner in zip(caption.words, caption.owners, strict=True):
        if owner != FILLER_WORD:
            spans[owner] = (spans.get(owner, (start, 0))[0], start + len(word))
        start += len(word) + 1
    return [spans[owner] for owner in sorted(spans)]


def score_grounding(grounding: Grounding, example: SceneExample) -> dict[str, float]:
    """Score the grounding of a scene whose units are its phrases (``phrase_spans``); the means over its units.

    Returns:
        ``point``: the highest pixel of the unit's map is on the unit's object, or within 2 px of it.
        ``right_object``: of all objects of the scene, the unit's own has the highest mean.
        ``right_unit``: of all units, this one carries the object most (which word goes with this region?).
        ``diagonal``: share of the unit's map on its own object, of what it has on the named objects.
        ``whole_point``, ``whole_right_object``: the same for the map of the whole caption, in place of the unit's.
    """
    objects = torch.from_numpy(example.scene.masks > 0.5)
    owners = torch.arange(len(grounding.units))
    size = grounding.whole.pair.image_size
    maps = _stacked([grounding.heatmap(unit) for unit in owners.tolist()])
    whole = _stacked([grounding.whole.heatmap_at(*size)] * len(owners))
    means, whole_means = object_means(maps, objects), object_means(whole, objects)
    return {
        "point": _pointing(maps, objects),
        "right_object": float(right_object(means, owners).mean()),
        "right_unit": float(right_unit(means, owners).mean()),
        "diagonal": float(confusion(means, owners).diagonal().mean()),
        "whole_point": _pointing(whole, objects),
        "whole_right_object": float(right_object(whole_means, owners).mean()),
    }


def _stacked(maps: list[Floats]) -> torch.Tensor:
    return torch.from_numpy(np.stack(maps))


def _pointing(maps: torch.Tensor, objects: torch.Tensor) -> float:
    points = [pointing_game(m, target, POINT_TOLERANCE) for m, target in zip(maps, objects, strict=False)]
    return float(torch.stack(points).mean())
