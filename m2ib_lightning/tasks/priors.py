"""The priors of ``prior=data``: measured once per run, on its first pairs, and saved in its directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics, calibrate, needed
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.tasks.work import Work


def saved_priors(work: Work, run: RunDirectory) -> Statistics:
    """Return the priors that are already measured: those of the model, of the user, and of the run directory.

    Raises:
        M2IBError: if the file in the run directory is damaged, or of another model.
    """
    if not run.statistics.exists():
        return work.statistics
    statistics = Statistics.load(run.statistics)
    statistics.check(work.model.encoder, str(run.statistics))
    return work.statistics.updated(statistics)


def measured_priors(
    work: Work, run: RunDirectory, device: torch.device, bottlenecks: Sequence[BottleneckSettings], *, resumed: bool
) -> Statistics:
    """Return every prior that the bottlenecks need; measure and save those that are missing.

    The priors are those of the model before any training, computed in float32 at least. They are the same each time,
    so a file that is damaged, or of a start that never began, is replaced.

    Args:
        work: the model and the pairs.
        run: the run directory, where ``statistics.safetensors`` is saved.
        device: device of this rank.
        bottlenecks: the bottlenecks that will be optimised or trained.
        resumed: whether the directory holds a run, whose priors count.

    Raises:
        M2IBError: if no pair can be read, or the run's priors are of another model.
    """
    model, pairs = work.model, work.settings.calibration_pairs
    if not resumed or not _is_whole(run.statistics):
        run.statistics.unlink(missing_ok=True)
    priors = saved_priors(work, run)
    measured = False
    while missing := next(filter(None, (needed(settings, priors) for settings in bottlenecks)), None):
        measured = True
        print(f"measuring {', '.join(f'{m} layer {k}' for m, k in missing.items())} on up to {pairs} pairs", flush=True)
        with frozen(model.encoder.model, device, torch.promote_types(model.dtype, torch.float32)):
            priors = calibrate(model.encoder, work.datamodule.calibration_batches(pairs), missing, priors, pairs)
    if measured:
        priors.save(run.statistics)
    return priors


def _is_whole(file: Path) -> bool:
    try:
        if file.exists():
            Statistics.load(file)
    except M2IBError as error:
        print(f"note: {error}. They are measured again", file=sys.stderr, flush=True)
        return False
    return True


def statistics_hash(statistics: Statistics, bottlenecks: Sequence[BottleneckSettings]) -> str | None:
    """Return the hash of the statistics, or None if no bottleneck uses them."""
    used = any(settings.tower(modality).prior == "data" for settings in bottlenecks for modality in MODALITIES)
    return statistics.sha256 if used else None
