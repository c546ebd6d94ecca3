"""One tower's part of a result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class TowerAttribution:
    """One tower's part of a result: its saliency, and the curves of its optimisation.

    The three curves are None for a method that does not optimise.

    Attributes:
        saliency: (grid_h, grid_w) for the image, (tokens,) for the text, without special tokens; in nats for M2IB.
        loss: objective at each step.
        information: mean nats per token and channel at each step.
        similarity: mean cosine through the bottleneck at each step.
    """

    saliency: Floats
    loss: Floats | None = None
    information: Floats | None = None
    similarity: Floats | None = None

    @property
    def last_information(self) -> float | None:
        """Mean nats per token and channel at the last step; None for a method that does not optimise."""
        return None if self.information is None else float(self.information[-1])

    @property
    def last_similarity(self) -> float | None:
        """Mean cosine through the bottleneck at the last step; None for a method that does not optimise."""
        return None if self.similarity is None else float(self.similarity[-1])

    def __repr__(self) -> str:
        steps = "" if self.loss is None else f", {len(self.loss)} steps"
        return f"TowerAttribution(saliency of {self.saliency.shape}{steps})"


def min_max(values: NDArray[Any]) -> Floats:
    """Scale values to [0, 1]; zeros if all values are equal.

    >>> min_max(np.array([1.0, 3.0, 2.0])).tolist()
    [0.0, 1.0, 0.5]
    >>> min_max(np.array([2.0, 2.0])).tolist()
    [0.0, 0.0]
    """
    if not values.size:
        return np.zeros(values.shape, np.float32)
    low, high = float(values.min()), float(values.max())
    if not high > low:
        return np.zeros(values.shape, np.float32)
    return ((values - low) / (high - low)).astype(np.float32)
