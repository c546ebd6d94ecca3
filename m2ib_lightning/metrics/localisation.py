"""How well one map finds its target: the pixels (or tokens) that it should highlight.

Each function takes one pair: ``saliency``, raw and of any shape (usually (H, W)), and ``target``, bool and of the same
shape. Each returns a scalar in float64. The score is NaN where it is not defined: the target is empty, or the map has a
value that is not finite. A shape or type that does not fit raises ``M2IBError``.

All but ``mass_accuracy`` and ``iou`` depend only on the order of the values: a monotone function of the map changes
nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.metrics.checks import check_same_shape, flat, undefined
from m2ib_lightning.metrics.scaling import min_max


def pointing_game(saliency: Tensor, target: Tensor, tolerance: int = 0) -> Tensor:
    """Whether the highest pixel is in the target (Zhang et al., 2018, "Top-Down Neural Attention").

    If several pixels tie for the highest, the score is the share of them that is in the target. A blank map thus scores
    the target's share of the map. Quantus counts a hit when any of them is in the target, so a blank map scores 1.

    Args:
        saliency: raw map (H, W), or of any shape without a tolerance.
        target: bool mask of the same shape.
        tolerance: pixels by which the target is dilated first, with a square window.

    Returns:
        A scalar from 0 to 1.

    Raises:
        M2IBError: if the tolerance is negative, or is positive for a map that is not (H, W).

    >>> target = torch.tensor([[True, False], [False, False]])
    >>> pointing_game(torch.tensor([[3.0, 1.0], [0.0, 2.0]]), target).item()
    1.0
    >>> pointing_game(torch.zeros(2, 2), target).item()
    0.25
    """
    pair = _flat_pair(saliency, target)
    dilated = _dilated(target, tolerance).to(saliency.device).flatten()
    if pair is None:
        return undefined(saliency)
    values, _ = pair
    return dilated[values == values.max()].double().mean()


def mass_accuracy(saliency: Tensor, target: Tensor) -> Tensor:
    r"""Share of the map's positive mass that lies on the target.

    .. math::
        \sum_{p \in M} \max(a_p, 0) \Big/ \sum_p \max(a_p, 0)

    This is the relevance mass accuracy of Arras et al. (2022, "CLEVR-XAI"). Negative values are clipped, so the score
    is from 0 to 1; Quantus does not clip. A map without positive mass scores the target's share of the map, as a
    constant map does.

    >>> mass_accuracy(torch.tensor([3.0, 1.0, -5.0]), torch.tensor([True, False, False])).item()
    0.75
    """
    pair = _flat_pair(saliency, target)
    if pair is None:
        return undefined(saliency)
    values, inside = pair
    mass = values.clamp(min=0)
    total = mass.sum()
    return mass[inside].sum() / total if total > 0 else inside.double().mean()


def rank_accuracy(saliency: Tensor, target: Tensor) -> Tensor:
    r"""Share of the :math:`|M|` highest pixels that is in the target.

    .. math::
        |\mathrm{top}_{|M|}(a) \cap M| \,/\, |M|

    This is the relevance rank accuracy of Arras et al. (2022, "CLEVR-XAI"). If tied pixels straddle the last place, the
    score is the expectation over their orders. A constant map thus scores the target's share of the map.

    >>> rank_accuracy(torch.tensor([3.0, 2.0, 2.0, 1.0]), torch.tensor([True, True, False, False])).item()
    0.75
    """
    pair = _flat_pair(saliency, target)
    if pair is None:
        return undefined(saliency)
    selected, hits = _levels(*pair)
    size = hits[-1]  # |M|
    level = torch.searchsorted(selected, size)  # the first level with at least |M| pixels
    share = (size - selected[level - 1]) / (selected[level] - selected[level - 1])
    return (hits[level - 1] + share * (hits[level] - hits[level - 1])) / size


def iou(saliency: Tensor, target: Tensor, threshold: float = 0.5) -> Tensor:
    """Intersection over union of the target with the pixels at or above a threshold of the heatmap.

    The heatmap is the min-max scaled map; the heatmap of a constant map is all zeros.

    Args:
        saliency: raw map of any shape.
        target: bool mask of the same shape.
        threshold: value of the heatmap from which a pixel counts, from 0 to 1.

    Returns:
        A scalar from 0 to 1.

    Raises:
        M2IBError: if the threshold is not from 0 to 1.

    >>> iou(torch.tensor([4.0, 3.0, 0.0]), torch.tensor([True, False, False])).item()
    0.5
    """
    if not 0 <= threshold <= 1:
        raise M2IBError(f"threshold must be from 0 to 1, got {threshold}: the map is scaled to that range")
    pair = _flat_pair(saliency, target)
    if pair is None:
        return undefined(saliency)
    values, inside = pair
    selected = min_max(values, (0,)) >= threshold
    return (selected & inside).sum().double() / (selected | inside).sum()


def best_iou(saliency: Tensor, target: Tensor) -> Tensor:
    """Intersection over union at the threshold that is best for this pair, over all thresholds.

    The target chooses the threshold, so this is an upper bound of ``iou``. The score is at least the target's share of
    the map.

    >>> best_iou(torch.tensor([4.0, 3.0, 0.0]), torch.tensor([True, False, False])).item()
    1.0
    """
    pair = _flat_pair(saliency, target)
    if pair is None:
        return undefined(saliency)
    selected, hits = _levels(*pair)
    return (hits / (hits[-1] + selected - hits)).max()


def auroc(saliency: Tensor, target: Tensor) -> Tensor:
    """Probability that a pixel of the target is higher than one outside, ties counted half.

    The result is exact for any real values. Torchmetrics applies a sigmoid to values outside [0, 1], so that large
    values tie. The score is also NaN where the target covers the whole map.

    >>> auroc(torch.tensor([900.0, 800.0, 700.0]), torch.tensor([True, False, True])).item()
    0.5
    """
    pair = _flat_pair(saliency, target)
    if pair is None or bool(target.all()):
        return undefined(saliency)
    selected, hits = _levels(*pair)
    misses = selected - hits
    return torch.trapezoid(hits / hits[-1], misses / misses[-1])


def average_precision(saliency: Tensor, target: Tensor) -> Tensor:
    r"""Area under the precision-recall curve, as steps.

    .. math::
        \sum_n (R_n - R_{n-1}) P_n

    The sum is over the distinct values of the map, from high to low, as in scikit-learn's ``average_precision_score``.
    The result is exact for any real values, as in ``auroc``. A constant map scores the target's share of the map.

    >>> average_precision(torch.tensor([3.0, 2.0, 1.0, 0.0]), torch.tensor([True, False, True, False])).item()
    0.8333333333333333
    """
    pair = _flat_pair(saliency, target)
    if pair is None:
        return undefined(saliency)
    selected, hits = _levels(*pair)
    return (hits.diff() * hits[1:] / selected[1:]).sum() / hits[-1]


def _flat_pair(saliency: Tensor, target: Tensor) -> tuple[Tensor, Tensor] | None:
    """Flatten a map and its target to (N,) on the map's device; return None where no score is defined."""
    check_same_shape(saliency=saliency, target=target)
    if target.dtype != torch.bool:
        raise M2IBError(f"target must be bool, got {target.dtype}: pass `target > 0.5` or the like")
    values, inside = flat(saliency), target.to(saliency.device).flatten()
    return None if values is None or not bool(inside.any()) else (values, inside)


def _levels(values: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
    """Count the pixels at or above each of the L distinct values, from high to low, and those of them in the target.

    Returns:
        Two tensors (L + 1,) that start with 0.
    """
    ordered, order = values.sort(descending=True)
    is_last = torch.ones_like(inside)
    is_last[:-1] = ordered[1:] != ordered[:-1]  # equal pixels form one step
    ends = is_last.nonzero().squeeze(1)
    selected = (ends + 1).double()
    hits = inside[order].cumsum(0)[ends].double()
    start = selected.new_zeros(1)
    return torch.cat([start, selected]), torch.cat([start, hits])


def _dilated(target: Tensor, pixels: int) -> Tensor:
    """Dilate a target (H, W) by a square window."""
    if pixels == 0:
        return target
    if pixels < 0 or target.ndim != 2:
        raise M2IBError(f"tolerance must be 0, or positive for a map (H, W), got {pixels} for {tuple(target.shape)}")
    return max_pool2d(target[None].float(), 2 * pixels + 1, stride=1, padding=pixels)[0] > 0
