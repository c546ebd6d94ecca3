"""What a setting is chosen by: one score per pair and tower, from ground truth where there is any.

Legend: N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.config import Modality
from m2ib_lightning.pairs.pair import Pair

Floats = NDArray[np.float64]

Measures = dict[str, Floats]
"""Measures of a trial by name, each (N,), NaN where a measure is not defined."""

FEWEST_SHARE = 0.5
"""Share of the pairs that must have a score. With a smaller share nothing is chosen for the tower."""


@dataclass(frozen=True)
class Objective:
    """A score of one tower's maps; higher is better.

    Attributes:
        name: short name, for tables.
        meaning: what the score is, for the report.
        needs_truth: whether the score compares maps with ground truth; else it needs the ``curves`` of a trial.
        details: names of further measures to show beside the score.
        why_undefined: why a pair may have no score, for the message where too few have one.
        score: function from the measures of a trial to the scores (N,), NaN where a pair has none.
    """

    name: str
    meaning: str
    needs_truth: bool
    details: tuple[str, ...]
    why_undefined: str
    score: Callable[[Measures], Floats]


def objective_of(modality: Modality, pairs: Sequence[Pair]) -> Objective:
    """Return the objective of a tower: by ground truth if at least half of the pairs have it, else by faithfulness.

    Args:
        modality: the tower.
        pairs: the pairs that the settings are tried on.
    """
    truths = [pair.truth for pair in pairs if pair.truth is not None]
    labels = [truth.mask if modality == "image" else truth.content for truth in truths]
    labelled = sum(label is not None for label in labels)
    return (BY_TRUTH if labelled >= FEWEST_SHARE * len(pairs) else BY_FAITHFULNESS)[modality]


def _measure(measures: Measures, name: str) -> Floats:
    length = len(next(iter(measures.values()), ()))
    return measures.get(name, np.full(length, math.nan))


def _unsupervised(modality: Modality) -> Callable[[Measures], Floats]:
    r"""Return the score without ground truth, :math:`g - |g| \rho`, with the gain g = insertion - deletion.

    :math:`\rho` is the correlation with the map for another input, from 0. Without it, maps that ignore the other
    input win. The areas are raw cosines. A pair has a score where the normalised areas are defined: there, removing
    everything lowers the cosine by at least 0.05.
    """

    def score(measures: Measures) -> Floats:
        gain = _measure(measures, f"{modality}_insertion_raw") - _measure(measures, f"{modality}_deletion_raw")
        same = np.nan_to_num(_measure(measures, f"{modality}_same"))  # a pair without a partner has no correlation
        gain = gain - np.abs(gain) * same
        return np.where(np.isnan(_measure(measures, f"{modality}_insertion")), math.nan, gain)

    return score


BY_TRUTH: dict[Modality, Objective] = {
    "image": Objective(
        "average precision",
        "average precision of the map's pixels, with the mask's pixels as positives",
        needs_truth=True,
        details=("image_pointing", "image_mass", "image_iou", "image_same"),
        why_undefined="their mask is empty, or outside what the model sees",
        score=lambda measures: _measure(measures, "image_ap"),
    ),
    "text": Objective(
        "AUROC",
        "area under the ROC curve of the words' saliency, content words against filler",
        needs_truth=True,
        details=("text_same",),
        why_undefined="their captions have only content words, or only filler",
        score=lambda measures: _measure(measures, "text_auroc"),
    ),
}
"""Objectives where the source has ground truth."""

BY_FAITHFULNESS: dict[Modality, Objective] = {
    "image": Objective(
        "faithfulness",
        "mean cosine as the highest patches appear (insertion) minus that as they are blanked (deletion), times 1 "
        "minus the correlation with the map for another caption",
        needs_truth=False,
        details=("image_insertion_raw", "image_deletion_raw", "image_same"),
        why_undefined="blanking the whole picture lowers the cosine by less than 0.05",
        score=_unsupervised("image"),
    ),
    "text": Objective(
        "faithfulness",
        "mean cosine as the highest words are said (insertion) minus that as they are removed (deletion), times 1 "
        "minus the correlation with the map for another picture",
        needs_truth=False,
        details=("text_insertion_raw", "text_deletion_raw", "text_same"),
        why_undefined="removing all words lowers the cosine by less than 0.05",
        score=_unsupervised("text"),
    ),
}
"""Objectives where the source has no ground truth."""

MEANINGS = {
    "image_pointing": "the highest pixel is in the mask",
    "image_mass": "share of the saliency in the mask",
    "image_iou": "IoU of the heatmap above 0.5 with the mask",
    "image_insertion_raw": "insertion",
    "image_deletion_raw": "deletion",
    "image_same": "correlation with the map for another caption",
    "text_insertion_raw": "insertion",
    "text_deletion_raw": "deletion",
    "text_same": "correlation with the words' map for another picture",
}
"""Meaning of each measure in ``Objective.details``."""
