"""How much two maps of one pair agree: over seeds, small changes of the image, other weights, other captions."""

from __future__ import annotations

from torch import Tensor

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.metrics.checks import check_same_shape, flat, undefined


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps: Pearson's correlation of the ranks, where ties share their mean rank.

    Args:
        a: a map of any shape.
        b: a map of the same shape.

    Returns:
        A scalar from -1 to 1, float64; NaN where a map is constant or has a value that is not finite.

    Raises:
        M2IBError: if the shapes differ.

    >>> import torch
    >>> spearman(torch.tensor([1.0, 2.0, 9.0]), torch.tensor([0.1, 0.2, 0.3])).item()
    1.0
    """
    check_same_shape(a=a, b=b)
    x, y = flat(a), flat(b)
    if x is None or y is None or bool((x == x[0]).all() | (y == y[0]).all()):
        return undefined(a)
    x, y = (ranks - ranks.mean() for ranks in (_average_ranks(x), _average_ranks(y)))
    return (x @ y / ((x @ x) * (y @ y)).sqrt()).clamp(-1, 1)


def max_sensitivity(saliency: Tensor, perturbed: Tensor) -> Tensor:
    r"""Largest relative change of the map under small changes of the input; lower is more stable.

    .. math::
        \max_k \lVert a_k - a \rVert_2 \,/\, \lVert a \rVert_2

    Yeh et al. (2019), "On the (In)fidelity and Sensitivity of Explanations", divided by the map's norm as in Captum's
    ``sensitivity_max``, which divides by 1 where that norm is 0.

    Args:
        saliency: the map a, of any shape.
        perturbed: (K, ...) maps of the changed inputs.

    Returns:
        A scalar of at least 0, float64; NaN where the map is blank or a value is not finite.

    Raises:
        M2IBError: if the shapes do not fit or there is no perturbed map.

    >>> import torch
    >>> max_sensitivity(torch.tensor([3.0, 4.0]), torch.tensor([[3.0, 4.0], [3.0, 9.0]])).item()
    1.0
    """
    if perturbed.ndim != saliency.ndim + 1 or perturbed.shape[1:] != saliency.shape or not len(perturbed):
        raise M2IBError(
            f"perturbed must hold maps of the saliency's shape {tuple(saliency.shape)}, got {tuple(perturbed.shape)}"
        )
    a, changed = flat(saliency), flat(perturbed)
    if a is None or changed is None or not bool(a.any()):
        return undefined(saliency)
    return (changed.view(len(perturbed), -1) - a).norm(dim=1).max() / a.norm()


def _average_ranks(values: Tensor) -> Tensor:
    """Rank values (N,) from 1; ties share their mean rank."""
    _, levels, counts = values.unique(return_inverse=True, return_counts=True)
    return (counts.cumsum(0) - (counts - 1).double() / 2)[levels]
