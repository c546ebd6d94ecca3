"""The start of ``task=tune``: the check of its keys, and the values to try for each tower."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import asdict, replace

from m2ib_lightning.config import Config, Modality
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.evaluation.tuning.coordinate_search import Grid, layers_to_try
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.m2ib.settings import GRANULARITIES, PRIORS, BottleneckSettings, TowerSettings
from m2ib_lightning.tasks.work import Work

BETAS = (0.03, 0.1, 0.3, 1.0)
"""Weights of the information that are tried by default."""


def check_options(config: Config) -> None:
    """Check the keys of the search.

    Raises:
        M2IBError: if a key is wrong, or belongs to another task.
    """
    options = config.tune
    for name in ("selection_pairs", "confirmation_pairs", "layers", "budget"):
        value = getattr(options, name)
        if value < 1:
            raise M2IBError(f"tune.{name} must be at least 1, got {value}")
    for beta in options.betas or ():
        if not (math.isfinite(beta) and beta >= 0):
            raise M2IBError(f"tune.betas must not be negative, got {beta}")
    if options.betas == []:
        raise M2IBError("tune.betas must name at least one value, or be null for the default ones")
    if config.resume or config.retry_failed:
        raise M2IBError("task=tune can't be resumed: leave out resume and retry_failed, and give another output_dir")
    if config.model.compile:
        raise M2IBError("task=tune does not go with model.compile=true: every setting would be compiled anew")
    if "logger" in config.trainer:
        raise M2IBError("task=tune has no curves to log: leave out trainer.logger")
    if config.method.name != "m2ib":
        raise M2IBError(f"task=tune chooses settings of method.name=m2ib, got {config.method.name!r}")


def grid_of(work: Work, modality: Modality) -> Grid:
    """Return the values to try for a tower. A key of ``bottleneck`` that the user gave keeps its value."""
    options, given = work.config.tune, getattr(work.config.bottleneck, modality)
    always = [start.layer for start in starts_of(work, modality) if start.layer is not None]
    layers = layers_to_try(_deepest(work, modality), options.layers, always)
    return Grid(
        layer=layers if given.layer is None else (given.layer,),
        beta=tuple(options.betas or BETAS) if given.beta is None else (given.beta,),
        granularity=GRANULARITIES if given.granularity is None else (given.granularity,),
        prior=PRIORS if given.prior is None else (given.prior,),
    )


def starts_of(work: Work, modality: Modality) -> list[TowerSettings]:
    """Return the present settings of a tower, and the published ones with the keys that the user gave."""
    given = {
        key: value for key, value in asdict(getattr(work.config.bottleneck, modality)).items() if value is not None
    }
    return [work.settings.tower(modality), replace(published(work).tower(modality), **given)]


def published(work: Work) -> BottleneckSettings:
    """Return the published settings, with the layers that they mean for the model."""
    return resolve(BottleneckSettings(), work.model.encoder)


def _deepest(work: Work, modality: Modality) -> int:
    """Return the deepest layer at which the tower can be cut."""
    tower = work.model.encoder.towers[modality]
    for layer in range(len(tower.blocks) - 1, -1, -1):
        with suppress(M2IBError):
            return tower.resolve_layer(layer)
    return -1
