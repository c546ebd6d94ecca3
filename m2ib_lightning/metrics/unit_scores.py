"""Scores of the maps of a caption's parts: does the map of each lie on what this part names?"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

import numpy as np

from m2ib_lightning.metrics.map_scores import against_mask
from m2ib_lightning.pairs.truth import NamedPart
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.tower_attribution import Floats, TowerAttribution


def unit_scores(result: Attribution) -> dict[str, float]:
    """Score the map of each part of the caption that names one thing (``pair.truth.parts``), and average over them.

    The map of a part is that of the unit with the most characters in common. Without units, or if no unit overlaps the
    part, it is the map of the whole caption, as for a method that has only this one.

    Returns:
        ``unit_mass``: share of the positive saliency that lies on what the part names. On pictures of four quadrants
        (``data.name=quadrants``) this is the pointing game recognition of FIxLIP (Baniecki et al., NeurIPS 2025),
        where chance is 0.25. ``unit_pointing``: whether the highest pixel does. ``unit_first``: whether the mean of the
        map is higher there than on what each other part names; only with two parts or more. An empty dict for a pair
        without parts.
    """
    truth = result.pair.truth
    if truth is None or not truth.parts:
        return {}
    maps = [map_of(result, part) for part in truth.parts]
    found = [against_mask(_with(result, saliency), part.mask) for saliency, part in zip(maps, truth.parts, strict=True)]
    scores = {f"unit_{name}": fmean(one[f"image_{name}"] for one in found) for name in ("mass", "pointing")}
    if len(maps) > 1:
        scores["unit_first"] = fmean(_is_first(result, maps[k], k) for k in range(len(maps)))
    return scores


def map_of(result: Attribution, part: NamedPart) -> Floats:
    """Return the map (grid_h, grid_w) of the unit that fits a part best, or of the whole caption."""
    shared = [max(0, min(unit.end, part.end) - max(unit.start, part.start)) for unit in result.pair.units]
    if result.units is None or not any(shared):
        return result.image_saliency
    return result.units.saliency[int(np.argmax(shared))]


def _is_first(result: Attribution, saliency: Floats, index: int) -> float:
    """Whether a map is highest on its own part; equal means share the score."""
    assert result.pair.truth is not None
    placed = _with(result, saliency).saliency_at(*result.pair.image_size)
    seen = ~np.isnan(placed)
    parts = [part.mask & seen for part in result.pair.truth.parts]
    means = [float(placed[part].mean()) if part.any() else float("nan") for part in parts]
    if np.isnan(means).any():
        return float("nan")
    best = [k for k, mean in enumerate(means) if mean == max(means)]
    return float(index in best) / len(best)


def _with(result: Attribution, saliency: Floats) -> Attribution:
    return replace(result, image=TowerAttribution(saliency))
