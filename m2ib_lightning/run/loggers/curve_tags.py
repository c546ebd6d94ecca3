"""The tags of curves, the same for every logger, and the units of their values."""

from __future__ import annotations

import re

_QUANTITIES = {
    "loss": "beta times information (nats per token and channel), minus similarity (cosine)",
    "information": "information in nats per token and channel, the mean over a pair",
    "similarity": "cosine, from -1 to 1",
    "failed": "number of pairs that could not be explained",
}
"""Descriptions by the last word of a tag."""

_AXES = {
    "pairs": "The x axis is the number of pairs done: this is no curve of a training. Each value is one batch's mean.",
    "mean_curve": "Mean over all pairs. The x axis is the step of the optimisation of a pair.",
    "pair": "One pair. The x axis is the step of its optimisation.",
}
"""Descriptions by the first word of a tag."""

_LOSSES = {"train": "the loss of the training, with beta times information in nats per token and channel"}
"""Descriptions of losses that are another sum, by the first word of a tag."""


def description_of(tag: str) -> str:
    """Return the unit and the axis of a curve, or an empty text where the tag says it all.

    >>> description_of("train/image_information")
    'information in nats per token and channel, the mean over a pair'
    >>> description_of("lr-AdamW")
    ''
    """
    group, _, name = tag.partition("/")
    last = re.split(r"[/_]", name)[-1]
    unit = _LOSSES.get(group, _QUANTITIES[last]) if last == "loss" else _QUANTITIES.get(last, "")
    axis = _AXES.get(group, "")
    axis = axis.partition(" Each")[0] if last == "failed" else axis
    return " ".join(filter(None, [f"{unit}." if unit and axis else unit, axis]))


def clean_tag(tag: str) -> str:
    """Return a tag in which every logger accepts each character.

    >>> clean_tag("evaluation/image_auroc/rise:samples=1000")
    'evaluation/image_auroc/rise_samples_1000'
    """
    return re.sub(r"[^\w./@-]", "_", tag, flags=re.ASCII)
