"""The metrics as torchmetrics classes, for users' own training and test loops.

A LightningModule logs them with ``self.log``, alone or in a ``MetricCollection``, on one or several processes. The
package itself does not use them: ``task=evaluate`` keeps every pair's score.

Each class is the mean over pairs of the function that its docstring names. ``update`` takes one tensor per pair: a
list, whose maps may differ in size, or one tensor with the pairs first. Pass a single map as ``[map]``; a bare (H, W)
is read as H pairs of W tokens. ``MatchedAUC``, which is not a mean over pairs, is in ``sanity``.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.metrics.agreement import max_sensitivity, spearman
from m2ib_lightning.metrics.confidence import confidence_drop, confidence_increase, map_mass
from m2ib_lightning.metrics.curves import area_under, normalised_area
from m2ib_lightning.metrics.localisation import (
    auroc,
    average_precision,
    best_iou,
    iou,
    mass_accuracy,
    pointing_game,
    rank_accuracy,
)
from m2ib_lightning.metrics.pair_mean import PairMean, Pairs, by_pair
from m2ib_lightning.metrics.structure import complexity, sparseness


class _TargetMean(PairMean):
    """Base of the means of a score of a map against its target."""

    @abstractmethod
    def _score(self, saliency: Tensor, target: Tensor) -> Tensor: ...

    def update(self, saliency: Pairs, target: Pairs) -> None:
        """Add pairs: raw maps, and bool targets of the same shapes."""
        self.add(self._score(*pair) for pair in by_pair(saliency=saliency, target=target))


class PointingGame(_TargetMean):
    """Mean over pairs of ``pointing_game``, whether the highest pixel is in the target.

    Args:
        tolerance: pixels by which the targets are dilated.
        **kwargs: arguments of ``torchmetrics.Metric``.

    >>> import torch
    >>> metric = PointingGame()
    >>> metric.update([torch.tensor([3.0, 1.0]), torch.tensor([0.0, 2.0, 1.0])],
    ...               [torch.tensor([True, False]), torch.tensor([False, False, False])])
    >>> metric.compute().item(), metric.left_out.item()
    (1.0, 1)
    """

    higher_is_better = True

    def __init__(self, tolerance: int = 0, **kwargs: Any) -> None:
        super().__init__(tolerance, **kwargs)
        self.tolerance = tolerance

    def _score(self, saliency: Tensor, target: Tensor) -> Tensor:
        return pointing_game(saliency, target, self.tolerance)


class MassAccuracy(_TargetMean):
    """Mean over pairs of ``mass_accuracy``, the share of the positive saliency that lies on the target."""

    higher_is_better = True
    _score = staticmethod(mass_accuracy)


class RankAccuracy(_TargetMean):
    """Mean over pairs of ``rank_accuracy``, the share of the highest pixels that is in the target."""

    higher_is_better = True
    _score = staticmethod(rank_accuracy)


class IoU(_TargetMean):
    """Mean over pairs of ``iou``, the intersection over union of heatmap and target.

    Args:
        threshold: threshold of the heatmap, from 0 to 1.
        **kwargs: arguments of ``torchmetrics.Metric``.
    """

    higher_is_better = True

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        super().__init__(threshold, **kwargs)
        self.threshold = threshold

    def _score(self, saliency: Tensor, target: Tensor) -> Tensor:
        return iou(saliency, target, self.threshold)


class BestIoU(_TargetMean):
    """Mean over pairs of ``best_iou``, the intersection over union at the best threshold of each pair."""

    higher_is_better = True
    _score = staticmethod(best_iou)


class MapAUROC(_TargetMean):
    """Mean over pairs of ``auroc`` of each map, not the AUROC of all pixels together."""

    higher_is_better = True
    _score = staticmethod(auroc)


class MapAveragePrecision(_TargetMean):
    """Mean over pairs of ``average_precision`` of each map, not that of all pixels together."""

    higher_is_better = True
    _score = staticmethod(average_precision)


class _ConfidenceMean(PairMean):
    """Base of the means of a score of the unaltered pair and the pair under its map."""

    @abstractmethod
    def _score(self, clean: Tensor, masked: Tensor) -> Tensor: ...

    def update(self, clean: Pairs, masked: Pairs) -> None:
        """Add pairs: scores (B,) of the unaltered pairs, and scores (B,) under their maps."""
        self.add(self._score(*pair) for pair in by_pair(clean=clean, masked=masked))


class ConfidenceDrop(_ConfidenceMean):
    """Mean over pairs of ``confidence_drop``, how far the score falls under the map.

    >>> import torch
    >>> metric = ConfidenceDrop()
    >>> metric.update(clean=torch.tensor([0.5, 0.25]), masked=torch.tensor([0.25, 0.5]))
    >>> metric.compute().item()
    0.125
    """

    higher_is_better = False
    _score = staticmethod(confidence_drop)


class ConfidenceIncrease(_ConfidenceMean):
    """Mean over pairs of ``confidence_increase``: the share of pairs whose score rose."""

    higher_is_better = True
    _score = staticmethod(confidence_increase)


class _MapMean(PairMean):
    """Base of the means of a score of a map alone."""

    @abstractmethod
    def _score(self, saliency: Tensor) -> Tensor: ...

    def update(self, saliency: Pairs) -> None:
        """Add pairs: raw maps."""
        self.add(self._score(*pair) for pair in by_pair(saliency=saliency))


class Sparseness(_MapMean):
    """Mean over pairs of ``sparseness``, the Gini index of the map."""

    higher_is_better = True
    _score = staticmethod(sparseness)


class Complexity(_MapMean):
    """Mean over pairs of ``complexity``, the entropy of the map in nats."""

    higher_is_better = False
    _score = staticmethod(complexity)


class MapMass(PairMean):
    """Mean over pairs of ``map_mass``, the part of the image that the heatmaps keep."""

    higher_is_better = None

    def update(self, heatmap: Pairs) -> None:
        """Add pairs: heatmaps in [0, 1]."""
        self.add(map_mass(*pair) for pair in by_pair(heatmap=heatmap))


class CurveArea(PairMean):
    """Mean over pairs of ``area_under`` a curve of scores, or of ``normalised_area``.

    Args:
        normalised: whether to scale each curve by its pair's clean and empty scores first.
        **kwargs: arguments of ``torchmetrics.Metric``.

    >>> import torch
    >>> metric = InsertionArea(normalised=True)
    >>> metric.update(torch.tensor([[0.25, 0.5, 0.5]]), clean=torch.tensor([0.5]), empty=torch.tensor([0.25]))
    >>> metric.compute().item()
    0.75
    """

    def __init__(self, normalised: bool = False, **kwargs: Any) -> None:
        super().__init__(normalised, **kwargs)
        self.normalised = normalised

    def update(self, scores: Pairs, clean: Pairs | None = None, empty: Pairs | None = None) -> None:
        """Add pairs: scores at the N steps, and clean and empty scores (B,), which only ``normalised`` reads.

        Raises:
            M2IBError: if ``normalised`` is set and ``clean`` or ``empty`` is missing.
        """
        if not self.normalised:
            self.add(area_under(*pair) for pair in by_pair(scores=scores))
        elif clean is None or empty is None:
            raise M2IBError(
                f"{type(self).__name__}(normalised=True) needs the scores `clean` and `empty` of every pair"
            )
        else:
            self.add(normalised_area(*pair) for pair in by_pair(scores=scores, clean=clean, empty=empty))


class InsertionArea(CurveArea):
    """Mean area under insertion curves: the sooner the score rises, the better."""

    higher_is_better = True


class DeletionArea(CurveArea):
    """Mean area under deletion curves: the sooner the score falls, the better."""

    higher_is_better = False


class SeedStability(PairMean):
    """Mean ``spearman`` between the maps of two seeds: 1 where the noise does not matter."""

    higher_is_better = True

    def update(self, saliency: Pairs, reseeded: Pairs) -> None:
        """Add pairs: maps, and the maps of another seed."""
        self.add(spearman(*pair) for pair in by_pair(saliency=saliency, reseeded=reseeded))


class RandomisationCorrelation(PairMean):
    """Mean ``spearman`` with the maps of a randomised model: near 0 where maps depend on the learned weights.

    Adebayo et al. (2018), "Sanity Checks for Saliency Maps".
    """

    higher_is_better = False

    def update(self, saliency: Pairs, randomised: Pairs) -> None:
        """Add pairs: maps, and the maps of the randomised model."""
        self.add(spearman(*pair) for pair in by_pair(saliency=saliency, randomised=randomised))


class PromptCorrelation(PairMean):
    """Mean ``spearman`` with the maps of the same images for other captions: low where maps depend on the caption."""

    higher_is_better = False

    def update(self, saliency: Pairs, prompted: Pairs) -> None:
        """Add pairs: maps, and the maps for another caption."""
        self.add(spearman(*pair) for pair in by_pair(saliency=saliency, prompted=prompted))


class MaxSensitivity(PairMean):
    """Mean over pairs of ``max_sensitivity``, the largest relative change of a map under small noise."""

    higher_is_better = False

    def update(self, saliency: Pairs, perturbed: Pairs) -> None:
        """Add pairs: maps, and for each pair the maps (K, ...) of its perturbed inputs."""
        self.add(max_sensitivity(*pair) for pair in by_pair(saliency=saliency, perturbed=perturbed))
