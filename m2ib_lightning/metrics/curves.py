"""Insertion and deletion curves: the score while pixels appear, or disappear, in falling order of the map.

Petsiuk et al. (2018), "RISE". These functions take the scores; the caller chooses the steps and the value of a removed
pixel. A large area is good for insertion, a small one for deletion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.metrics.checks import check_same_shape


def area_under(scores: Tensor) -> Tensor:
    r"""Area under a curve by the trapezoid rule; its steps are evenly spaced from 0 to 1.

    .. math::
        \Big( \sum_{i=1}^{n} s_i - \frac{s_1 + s_n}{2} \Big) \Big/ (n - 1)

    Args:
        scores: (..., N), at evenly spaced steps with both ends.

    Returns:
        (...) float64, in the unit of the scores.

    Raises:
        M2IBError: if there are fewer than two steps.

    >>> area_under(torch.tensor([0.0, 1.0, 1.0])).item()
    0.75
    """
    steps = scores.shape[-1] if scores.ndim else 0
    if steps < 2:
        raise M2IBError(f"scores must be (..., N) with at least 2 steps, got shape {tuple(scores.shape)}")
    scores = scores.detach().double()
    return (scores.sum(-1) - (scores[..., 0] + scores[..., -1]) / 2) / (steps - 1)


def normalised_area(scores: Tensor, clean: Tensor, empty: Tensor) -> Tensor:
    r"""Area under a curve whose scores are scaled: 1 is the unaltered pair, 0 the pair with everything removed.

    .. math::
        s \mapsto (s - s_\mathrm{empty}) / (s_\mathrm{clean} - s_\mathrm{empty})

    CLIP's cosines lie close together and differ from pair to pair; the scaling makes their areas comparable.

    Args:
        scores: (..., N), at evenly spaced steps with both ends.
        clean: (...) scores of the unaltered pairs.
        empty: (...) scores of the pairs with everything removed.

    Returns:
        (...) float64; NaN where ``clean`` is not above ``empty``, because there is nothing to explain.

    Raises:
        M2IBError: if there are fewer than two steps or the shapes do not fit.

    >>> normalised_area(torch.tensor([0.25, 0.5, 0.5]), torch.tensor(0.5), torch.tensor(0.25)).item()
    0.75
    """
    area = area_under(scores)
    check_same_shape(curves=area, clean=clean, empty=empty)
    clean, empty = clean.detach().to(area), empty.detach().to(area)
    scaled = (area - empty) / (clean - empty)  # the area is linear in the scores
    return torch.where(clean > empty, scaled, torch.nan)
