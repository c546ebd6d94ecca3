"""What ``task=attribute`` gives ``lightning.Trainer``, and what it refuses."""

from __future__ import annotations

from typing import Any

from lightning import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.precision import half_precision

_OURS = {"max_epochs": 1, "use_distributed_sampler": False, "enable_checkpointing": False}
_HARMLESS = {"accumulate_grad_batches": 1, "max_steps": -1}  # Lightning's own defaults
_SHORTER = "it would leave pairs out unsaid; data.limit explains only the first so many"

_REASONS = {
    "max_epochs": "a pair is explained once; bottleneck.steps is the number of optimiser steps",
    "min_epochs": "a pair is explained once; bottleneck.steps is the number of optimiser steps",
    "use_distributed_sampler": "Lightning's sampler repeats pairs to even out ranks",
    "enable_checkpointing": "the table's rows are the only state",
    "accumulate_grad_batches": "the pairs of a batch share no gradient",
    "gradient_clip_val": "clipping would couple the pairs of a batch",
    "gradient_clip_algorithm": "clipping would couple the pairs of a batch",
    "max_steps": _SHORTER,
    "min_steps": _SHORTER,
    "max_time": _SHORTER,
    "limit_train_batches": _SHORTER,
    "overfit_batches": _SHORTER,
    "fast_dev_run": _SHORTER,
    "logger": "the run directory's TensorBoard is the logger",
    "callbacks": "callbacks are objects; give them to a Trainer of your own with M2IBModule",
}
_PRECISIONS = {
    "16-true": "alpha, lambda and the information must stay float32; use bf16-mixed",
    "bf16-true": "alpha, lambda and the information must stay float32; use bf16-mixed",
}
_ONE_DEVICE = "this version explains on one device; split the table and start one run for each"


def trainer_arguments(given: dict[str, Any]) -> dict[str, Any]:
    """The Trainer's arguments.

    Raises:
        M2IBError: for an argument that would change or break the result; says why.
    """
    for name, reason in _REASONS.items():
        if name in given and given[name] != {**_OURS, **_HARMLESS}.get(name, ...):
            raise M2IBError(f"trainer.{name}={given[name]!r} is refused for task=attribute: {reason}")
    precision = str(given.get("precision", "32-true"))
    if precision in _PRECISIONS:
        raise M2IBError(f"trainer.precision={precision} is refused for task=attribute: {_PRECISIONS[precision]}")
    for name in ("devices", "num_nodes"):
        if given.get(name, 1) not in (1, "1", "auto", [0]):
            raise M2IBError(f"trainer.{name}={given[name]!r} is refused: {_ONE_DEVICE}")
    if given.get("strategy", "auto") != "auto":
        raise M2IBError(f"trainer.strategy={given['strategy']!r} is refused for task=attribute: {_ONE_DEVICE}")
    arguments: dict[str, Any] = {"enable_model_summary": False, "log_every_n_steps": 1, **given, **_OURS, "devices": 1}
    half = str(arguments.get("precision")) in ("16", "16-mixed")
    if half:
        if "plugins" in arguments:
            raise M2IBError("trainer.precision=16-mixed is a plugin here: it can't go together with trainer.plugins")
        del arguments["precision"]
    try:
        trainer = Trainer(**arguments, logger=False)
    except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
        first = str(error).strip().split("\n")[0]
        raise M2IBError(f"lightning.Trainer refuses {given}: {first}") from None
    if half:
        arguments["plugins"] = [half_precision(trainer.strategy.root_device.type)]
    return arguments
