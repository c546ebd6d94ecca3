"""Metrics of maps: functions on one pair's tensors, and torchmetrics classes that average them over pairs."""

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
from m2ib_lightning.metrics.modular import (
    BestIoU,
    Complexity,
    ConfidenceDrop,
    ConfidenceIncrease,
    CurveArea,
    DeletionArea,
    InsertionArea,
    IoU,
    MapAUROC,
    MapAveragePrecision,
    MapMass,
    MassAccuracy,
    MaxSensitivity,
    PointingGame,
    PromptCorrelation,
    RandomisationCorrelation,
    RankAccuracy,
    SeedStability,
    Sparseness,
)
from m2ib_lightning.metrics.pair_mean import PairMean
from m2ib_lightning.metrics.sanity import MatchedAUC, matched_auc
from m2ib_lightning.metrics.structure import complexity, sparseness

__all__ = [
    "BestIoU",
    "Complexity",
    "ConfidenceDrop",
    "ConfidenceIncrease",
    "CurveArea",
    "DeletionArea",
    "InsertionArea",
    "IoU",
    "MapAUROC",
    "MapAveragePrecision",
    "MapMass",
    "MassAccuracy",
    "MatchedAUC",
    "MaxSensitivity",
    "PairMean",
    "PointingGame",
    "PromptCorrelation",
    "RandomisationCorrelation",
    "RankAccuracy",
    "SeedStability",
    "Sparseness",
    "area_under",
    "auroc",
    "average_precision",
    "best_iou",
    "complexity",
    "confidence_drop",
    "confidence_increase",
    "iou",
    "map_mass",
    "mass_accuracy",
    "matched_auc",
    "max_sensitivity",
    "normalised_area",
    "pointing_game",
    "rank_accuracy",
    "sparseness",
    "spearman",
]
