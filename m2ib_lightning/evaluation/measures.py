"""The measures of the evaluation: name, group, better direction and meaning of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from m2ib_lightning.errors import M2IBError, nearest

Better = Literal["higher", "lower", "zero"]

GROUPS = ("localisation", "confidence", "curves", "structure", "probes", "reference")
DEFAULT_GROUPS = GROUPS[:-1]


@dataclass(frozen=True)
class Measure:
    """A column of the comparison table.

    Attributes:
        group: name of the group, one of ``GROUPS`` (chosen by ``evaluate.metrics``) or ``time``.
        better: the better direction; ``zero`` for a correlation that should vanish, None if neither is better.
        meaning: line of the report's legend.
    """

    group: str
    better: Better | None
    meaning: str


MEASURES: dict[str, Measure] = {
    "image_pointing": Measure("localisation", "higher", "the highest pixel is on what the caption names"),
    "image_mass": Measure("localisation", "higher", "share of the positive saliency that lies on it"),
    "image_rank": Measure("localisation", "higher", "share of the |mask| highest pixels that lie on it"),
    "image_iou": Measure("localisation", "higher", "IoU of the heatmap above 0.5 with it"),
    "image_best_iou": Measure("localisation", "higher", "IoU at the best threshold"),
    "image_auroc": Measure("localisation", "higher", "area under the ROC curve of its pixels"),
    "image_ap": Measure("localisation", "higher", "average precision of its pixels"),
    "text_auroc": Measure("localisation", "higher", "area under the ROC curve, content words against filler"),
    "image_drop": Measure("confidence", "lower", "fall of the cosine when the picture is multiplied by its heatmap"),
    "image_increase": Measure("confidence", "higher", "whether the cosine rises instead"),
    "image_map_mass": Measure("confidence", None, "mean of the heatmap: a map of ones has no drop"),
    "text_drop": Measure("confidence", "lower", "fall of the cosine when words fade to the mean embedding"),
    "text_increase": Measure("confidence", "higher", "whether the cosine rises instead"),
    "text_map_mass": Measure("confidence", None, "mean of the words' heatmap"),
    "image_insertion": Measure("curves", "higher", "normalised area, as the highest patches appear on a blur"),
    "image_deletion": Measure("curves", "lower", "normalised area, as the highest patches are blanked"),
    "image_insertion_raw": Measure("curves", "higher", "mean cosine as the highest patches appear on a blur"),
    "image_deletion_raw": Measure("curves", "lower", "mean cosine as the highest patches are blanked"),
    "text_insertion": Measure("curves", "higher", "normalised area, as the highest words are said"),
    "text_deletion": Measure("curves", "lower", "normalised area, as the highest words are removed"),
    "text_insertion_raw": Measure("curves", "higher", "mean cosine as the highest words are said"),
    "text_deletion_raw": Measure("curves", "lower", "mean cosine as the highest words are removed"),
    "image_sparseness": Measure("structure", None, "Gini index"),
    "image_complexity": Measure("structure", None, "entropy, in nats"),
    "text_sparseness": Measure("structure", None, "Gini index"),
    "text_complexity": Measure("structure", None, "entropy, in nats"),
    "image_seeds": Measure("probes", "higher", "Spearman correlation with the map of another seed"),
    "text_seeds": Measure("probes", "higher", "likewise, of words"),
    "image_sensitivity": Measure("probes", "lower", "largest relative change of the map under small noise"),
    "image_randomised": Measure("probes", "zero", "Spearman correlation with the map of random weights"),
    "text_randomised": Measure("probes", "zero", "likewise, of words"),
    "prompt_present": Measure("probes", "zero", "Spearman correlation with the map of another object's name"),
    "prompt_absent": Measure("probes", "zero", "likewise, of an object that is not there"),
    "prompt_gibberish": Measure("probes", "zero", "likewise, of gibberish"),
    "prompt_pointing": Measure("probes", "higher", "the highest pixel is on the other object, once that is named"),
    "matched_auc": Measure("probes", "higher", "how well the final loss tells pairs from shuffled captions"),
    "reference_image_drop": Measure("reference", "lower", "as published: x 100, one row of the map"),
    "reference_image_increase": Measure("reference", "higher", "as published: x 100, one row of the map"),
    "reference_text_drop": Measure("reference", "lower", "as published: x 100, ids set to 0, no special tokens"),
    "reference_text_increase": Measure("reference", "higher", "as published: x 100, ids set to 0, no special tokens"),
    "seconds": Measure("time", "lower", "a pair, both maps"),
}


def check_groups(names: list[str] | None) -> tuple[str, ...]:
    """Return the groups of ``evaluate.metrics``, or the default groups for None.

    Raises:
        M2IBError: if a group does not exist; the message lists those that do.
    """
    for name in names or ():
        if name not in GROUPS:
            raise M2IBError(f"evaluate.metrics takes {', '.join(GROUPS)}, got {name!r}.{nearest(name, GROUPS)}")
    return DEFAULT_GROUPS if names is None else tuple(names)
