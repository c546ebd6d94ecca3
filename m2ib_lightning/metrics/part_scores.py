"""Scores of a pair's unit maps against the parts of its caption that name one thing each (``pair.truth.parts``)."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from m2ib_lightning.metrics.map_scores import against_mask
from m2ib_lightning.metrics.unit_scores import object_means, right_object
from m2ib_lightning.pairs.truth import NamedPart
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.tower_attribution import Floats, TowerAttribution


def part_scores(result: Attribution) -> dict[str, float]:
    """Score the map of each part of the caption that names one thing, and average over the parts.

    The map of a part is that of the unit with the most characters in common. Without units, or if no unit overlaps the
    part, it is the map of the whole caption, as for a method that has only this one.

    Returns:
        ``part_mass``: share of the positive saliency that lies on what the part names. On pictures of four quadrants
        (``data.name=quadrants``) this is the pointing game recognition of FIxLIP (Baniecki et al., NeurIPS 2025),
        where chance is 0.25. ``part_pointing``: whether the highest pixel does. ``part_right``: whether the mean of the
        map is higher there than on what each other part names (``right_object``); only with two parts or more. An empty
        dict for a pair without parts.
    """
    truth = result.pair.truth
    if truth is None or not truth.parts:
        return {}
    placed = [_with(result, map_of(result, part)) for part in truth.parts]
    found = [against_mask(one, part.mask) for one, part in zip(placed, truth.parts, strict=True)]
    scores = {f"part_{name}": fmean(one[f"image_{name}"] for one in found) for name in ("mass", "pointing")}
    if len(placed) > 1:
        maps = torch.from_numpy(np.stack([one.saliency_at(*result.pair.image_size) for one in placed]))
        scores["part_right"] = _right(maps, torch.from_numpy(np.stack([part.mask for part in truth.parts])))
    return scores


def map_of(result: Attribution, part: NamedPart) -> Floats:
    """Return the map (grid_h, grid_w) of the unit that fits a part best, or of the whole caption."""
    shared = [max(0, min(unit.end, part.end) - max(unit.start, part.start)) for unit in result.pair.units]
    if result.units is None or not any(shared):
        return result.image_saliency
    return result.units.saliency[int(np.argmax(shared))]


def _right(maps: Tensor, masks: Tensor) -> float:
    """Return how often a map (U, H, W) is highest on its own mask, over the pixels that the model saw."""
    seen = ~maps[0].isnan()
    means = object_means(maps[:, None, seen], masks[:, None, seen])
    return float(right_object(means, torch.arange(len(maps))).mean())


def _with(result: Attribution, saliency: Floats) -> Attribution:
    return replace(result, image=TowerAttribution(saliency))
