r"""The path along beta: one map of the picture from the optimisations at several weights of the information.

A patch t stays open up to its critical weight :math:`\beta_t`, beyond which its nats cost more than the cosine that
they buy. One beta says for each patch on which side of :math:`\beta_t` it is. Betas that are evenly spaced in the
logarithm say where :math:`\beta_t` is.

Nats are no good scale for the sum. For a closed gate, :math:`I \approx \lambda^2 (D + |z'|^2 / 2)`. For an open gate,
:math:`I \approx D \alpha + |z'|^2 / 2`, which grows with every step of the optimiser and with the norm of the features.
The mean over the betas in nats is thus the map at the smallest ones. With :math:`\log(1 + I)` an open gate counts about
the same at every beta, and the mean is close to linear in :math:`\log \beta_t`. The reading is

.. math::
    s = \Bigl( G_\sigma * \tfrac1P \sum_p \log(1 + I_p) \Bigr)^4

With ``opposite``, each row is also optimised against the opposite target -e. What passes then speaks against the match:
the other objects, and the background that every target keeps open at a low beta. The reading is what passes for the
target beyond that,

.. math::
    s = \max\Bigl( 0, G_\sigma * \tfrac1P \sum_p \bigl(\log(1 + I_p^+) - \log(1 + I_p^-)\bigr) \Bigr)^3

G is a Gaussian over neighbouring patches, of 0.7 patches. The power changes no order. It sets how much a half-open
patch counts, and with it the mass on the background and the heatmap above a threshold. The width, the power and the
span of the betas were chosen on 300 scenes of seed 101 (docs/evaluation.md).

Legend: R rows (pairs, and units of captions), P betas, S signs of the target (1, or 2 with ``opposite``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from m2ib_lightning.encoder.layout import Hidden

UNIT = "log(1 + nats)^4"
"""Unit of the saliency that is read along a path."""

DIFFERENCE_UNIT = "(log(1 + nats) - log(1 + opposite nats))^3"
"""Unit of the saliency that is read with ``opposite``."""

_LOWEST, _HIGHEST = 0.25, 8.0
"""Ends of the path, in units of the tower's beta."""

_WIDTH = 0.7
"""Standard deviation of the Gaussian, in patches."""

_POWER, _DIFFERENCE_POWER = 4, 3


@dataclass(frozen=True)
class Path:
    """How the map of a row is read.

    Attributes:
        count: number of betas P.
        opposite: whether the row is also optimised against the opposite target.
    """

    count: int = 1
    opposite: bool = False

    @property
    def copies(self) -> int:
        """Number of rows P * S of the optimisation that each row becomes."""
        return self.count * (2 if self.opposite else 1)

    @property
    def unit(self) -> str | None:
        """Unit of the saliency; None for nats."""
        return DIFFERENCE_UNIT if self.opposite else None if self.count == 1 else UNIT


ONE_BETA = Path()
"""The published reading: nats at the tower's own beta."""


def path_betas(beta: float, count: int) -> list[float]:
    """Return the betas of a path, evenly spaced in the logarithm from beta / 4 to 8 beta; ``[beta]`` for a count of 1.

    >>> path_betas(0.2, 1), [round(beta, 3) for beta in path_betas(0.2, 6)]
    ([0.2], [0.05, 0.1, 0.2, 0.4, 0.8, 1.6])
    """
    if count == 1:
        return [beta]
    ratio = _HIGHEST / _LOWEST
    return [beta * _LOWEST * ratio ** (index / (count - 1)) for index in range(count)]


def row_betas(beta: float, path: Path, rows: int, like: Tensor) -> Tensor:
    """Return the beta of each row (rows,) of a problem whose rows ``along_path`` has repeated."""
    return like.new_tensor(path_betas(beta, path.count)).repeat(rows // path.count)


def along_path(hidden: Hidden, target: Tensor, path: Path) -> tuple[Hidden, Tensor]:
    """Repeat each row of an optimisation problem for its path: its betas, then the same with the opposite target.

    Args:
        hidden: hidden states of the R rows.
        target: (R, E) their targets.
        path: how the map is read.

    Returns:
        The hidden states and targets of R * S * P rows; the copies of a row lie next to each other.
    """
    if path.copies == 1:
        return hidden, target
    rows = torch.arange(len(target), device=target.device).repeat_interleave(path.copies)
    signs = target.new_tensor([1.0] * path.count + [-1.0] * (path.copies - path.count)).repeat(len(target))
    return hidden.rows(rows), target[rows] * signs[:, None]


def read_path(saliency: Tensor, grids: Sequence[tuple[int, int]], path: Path) -> Tensor:
    """Read the map of each row from its maps along the path.

    Args:
        saliency: (R * S * P, patches) nats; unused patches are at the end of a row.
        grids: grid of patches (height, width) of each row.
        path: how the map is read. With one beta and one sign, the result is the saliency itself, in nats.

    Returns:
        The saliency (R, patches), in ``path.unit``; 0 for unused patches.
    """
    if path.copies == 1:
        return saliency
    levels = torch.log1p(saliency).unflatten(0, (len(grids), -1, path.count)).mean(2)  # (R, S, patches)
    levels = levels[:, 0] - levels[:, 1] if path.opposite else levels[:, 0]
    read = torch.zeros_like(levels)
    for row, (height, width) in enumerate(grids):
        cells = height * width
        blurred = _weights(height, levels) @ levels[row, :cells].view(height, width) @ _weights(width, levels).T
        power = _DIFFERENCE_POWER if path.opposite else _POWER
        read[row, :cells] = (blurred.clamp(min=0) ** power).flatten()
    return read


def _weights(count: int, like: Tensor) -> Tensor:
    """Return the weight of each patch (column) in each blurred patch (row); at the border only patches count."""
    positions = torch.arange(count, dtype=torch.float64)
    weights = torch.exp(-0.5 * ((positions[:, None] - positions) / _WIDTH) ** 2)
    return (weights / weights.sum(1, keepdim=True)).to(like)


def mean_over_path(values: Tensor, path: Path) -> Tensor:
    """Return the mean over each row's betas of values (steps, R * S * P), as (steps, R); for the target itself."""
    return values if path.copies == 1 else values.unflatten(1, (-1, path.copies))[..., : path.count].mean(2)
