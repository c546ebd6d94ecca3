"""The values at the end of a run, with the settings that led to them: TensorBoard's page *HParams*."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from m2ib_lightning.run.loggers.curve_tags import clean_tag
from m2ib_lightning.run.loggers.logged_media import log_text

_SHOWN = ("task", "seed", "model", "bottleneck", "method", "data.name", "data.path", "data.limit")
"""Keys of the configuration, or their first words, that are settings of a run rather than of its output. The keys of
``finetune`` are, too, in a training."""


def log_final_values(
    loggers: Sequence[Logger],
    config: Mapping[str, Any],
    values: Mapping[str, Any],
    step: int,
    *,
    texts: Mapping[str, str] | None = None,
    rank: int = 0,
) -> None:
    """Log the settings of a run and its final values, ``summary/*`` and others.

    Args:
        loggers: the loggers of this rank.
        config: the resolved configuration, as nested dictionaries.
        values: final values by tag; those that are no finite numbers are left out. TensorBoard's page has those of
            ``summary/``.
        step: number of pairs or of optimiser steps done.
        texts: texts in Markdown, by tag.
        rank: rank that writes. Another than 0 writes to TensorBoard alone, whose folder takes files of several ranks.
    """
    numbers = {clean_tag(tag): float(value) for tag, value in values.items() if _is_number(value)}
    metrics = {tag: value for tag, value in numbers.items() if tag.startswith("summary/")}
    shown = [*_SHOWN, *(["finetune"] if config.get("task") == "finetune" else [])]
    settings = {name: value for name, value in _leaves(config) if _is_below(name, shown)}
    writers = [logger for logger in loggers if rank == 0 or isinstance(logger, TensorBoardLogger)]
    with _as_rank_zero():
        for logger in writers:
            if isinstance(logger, TensorBoardLogger):
                logger.log_hyperparams(settings, metrics, step)
                logger.log_metrics({tag: value for tag, value in numbers.items() if tag not in metrics}, step)
            else:
                logger.log_hyperparams(settings)
                logger.log_metrics(numbers, step=step)
        for tag, text in (texts or {}).items():
            log_text(writers, tag, text, step)
        for logger in writers:
            logger.save()
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.close()


@contextmanager
def _as_rank_zero() -> Iterator[None]:
    """Context in which Lightning's loggers write on this rank."""
    guard: Any = rank_zero_only  # Lightning keeps the rank on it
    before = getattr(guard, "rank", None)
    guard.rank = 0
    try:
        yield
    finally:
        guard.rank = before


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_below(name: str, keys: Sequence[str]) -> bool:
    return any(name == key or name.startswith(f"{key}.") for key in keys)


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the dotted names and the values of a nested configuration, without those that are null."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", value
