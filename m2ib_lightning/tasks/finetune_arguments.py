"""The arguments of ``lightning.Trainer`` for ``task=finetune``, and those that are refused."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.plugins import DoublePrecision

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.finetuning.sharded import sharded_strategy
from m2ib_lightning.run.loggers import logger_names
from m2ib_lightning.tasks.trainer_arguments import launched, probe_trainer
from m2ib_lightning.tasks.world import World

_REFUSED = {
    "callbacks": "callbacks are objects; give them to a Trainer of your own with IBClipModule",
    "enable_checkpointing": "resume=true needs the checkpoints",
    "use_distributed_sampler": "the batches do not depend on the number of ranks",
    "num_sanity_val_steps": "recall needs all validation pairs",
}
"""Refused arguments, each with the reason."""

CHANGES_TRAINING = (
    *("max_epochs", "max_steps", "limit_train_batches", "overfit_batches"),
    *("accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
)
"""Trainer arguments that must not change when a run is resumed; the size of the global batch must not either."""

_EPOCHS = 10
"""Default number of epochs."""


def finetune_arguments(requested: dict[str, Any]) -> tuple[dict[str, Any], World]:
    """Return the arguments of the Trainer but its logger, and the ranks that it will run on.

    Args:
        requested: ``trainer.*`` of the configuration.

    Raises:
        M2IBError: if an argument is refused here or by Lightning; says why.
    """
    for name, reason in _REFUSED.items():
        if name in requested:
            raise M2IBError(f"trainer.{name}={requested[name]!r} is refused for task=finetune: {reason}")
    logger_names(requested.get("logger"))
    strategy = str(requested.get("strategy", "auto"))
    if strategy == "samples":
        raise M2IBError("trainer.strategy=samples shares no gradients: task=finetune takes ddp or fsdp")
    sharded = strategy == "fsdp"
    if strategy != "auto" and not strategy.startswith("ddp") and not sharded:
        near = nearest(strategy, ("ddp", "fsdp"))
        raise M2IBError(
            f"trainer.strategy={strategy} was never tried and is refused: task=finetune takes ddp or fsdp.{near}"
        )
    precision = str(requested.get("precision", "32-true"))
    if precision in ("16-true", "bf16-true"):
        raise M2IBError(f"trainer.precision={precision} is refused: weights and masks must be float32; use bf16-mixed")
    if sharded and precision in ("16", "16-mixed"):
        raise M2IBError(f"trainer.precision={precision} is not Lightning's with trainer.strategy=fsdp: use bf16-mixed")
    if requested.get("max_epochs") == -1 and requested.get("max_steps", -1) == -1:
        raise M2IBError("trainer.max_epochs=-1 never ends: the learning rate needs a known number of steps")
    sizes, environments = launched()
    arguments: dict[str, Any] = {
        "max_epochs": _EPOCHS,
        "enable_model_summary": False,
        **sizes,
        **requested,
        "use_distributed_sampler": False,
        "num_sanity_val_steps": 0,
    }
    arguments.pop("logger", None)
    if environments:
        arguments["plugins"] = [*arguments.get("plugins", []), *environments]
    if sharded:
        arguments["strategy"] = "ddp"  # until the number of ranks is known
    probe = probe_trainer({**arguments, "enable_checkpointing": False}, requested, environments)
    world = World.of(probe)
    if sharded:
        arguments["strategy"] = sharded_strategy(world.size)
        arguments["inference_mode"] = False  # FSDP2 cannot start in it, and a resumed run may only validate
        if precision in ("64", "64-true"):  # Lightning takes it there only as a plugin
            arguments["plugins"] = [*arguments.get("plugins", []), DoublePrecision()]
            del arguments["precision"]
    return arguments, world


def steps_between_logs(pairs: int, global_batch: int, arguments: dict[str, Any]) -> int:
    """Return the number of steps between two values of ``train/*``: 10, or fewer in a training of under 100 steps.

    Args:
        pairs: number of pairs to train on.
        global_batch: number of pairs in a batch, over all ranks.
        arguments: arguments of the Trainer.
    """
    batches = pairs // global_batch * max(arguments.get("max_epochs") or 1, 1)
    steps, limit = batches // (arguments.get("accumulate_grad_batches") or 1), arguments.get("max_steps") or -1
    return max(1, min(10, (steps if limit < 0 else min(steps, limit)) // 10))
