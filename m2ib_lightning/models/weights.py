"""The check that a model's weights are those of its folder, every one of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from m2ib_lightning.errors import M2IBError

_SHOWN = 4
"""Number of names in a message."""

_WRAPPERS = {
    "module.": "saved from DataParallel or DistributedDataParallel: save model.module",
    "_orig_mod.": "saved from torch.compile: save model._orig_mod",
    "_forward_module.": "saved from Fabric: save the inner module",
    "base_model.": "saved from a PEFT model: call merge_and_unload() before saving",
    "network.model.": "a checkpoint of m2ib_lightning: use the model/ folder of its run",
}
"""What puts a prefix before the names of all weights."""


def check_weights(report: Mapping[str, Any], what: str, model: str = "the model in config.json") -> None:
    """Check the report of ``from_pretrained``: no weight is missing, left over, or of another shape.

    A missing weight would be random. Buffers of position ids hold no information, and are ignored.

    Args:
        report: what ``from_pretrained(..., output_loading_info=True)`` returns with the model.
        what: the model, for the message.
        model: what the weights should be those of, for the message.

    Raises:
        M2IBError: if a weight differs; the message has names and the likely cause.
    """
    missing, left_over = (_weights(report.get(key, ())) for key in ("missing_keys", "unexpected_keys"))
    reshaped = [str(entry[0] if isinstance(entry, tuple) else entry) for entry in report.get("mismatched_keys", ())]
    broken = [str(entry) for entry in report.get("error_msgs", ())]
    parts = [
        f"{len(names)} {kind} ({', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''})"
        for kind, names in (
            ("missing from the file, which would be random", missing),
            ("in the file that the model does not have", left_over),
            ("of another shape", sorted(reshaped)),
            ("that can't be read", broken),
        )
        if names
    ]
    if parts:
        raise M2IBError(
            f"{what}: its weights are not those of {model}: {'; '.join(parts)}. {_likely_cause(missing, left_over)}"
        )


def _weights(names: Collection[str]) -> list[str]:
    return sorted(name for name in names if not name.endswith("position_ids"))


def _likely_cause(missing: list[str], left_over: list[str]) -> str:
    for prefix, cause in _WRAPPERS.items():
        if any(name.startswith(prefix) for name in left_over):
            return f"The names begin with {prefix!r}: the file was {cause}."
    if any("lora_" in name or ".base_layer." in name for name in left_over):
        return "The file holds adapters (LoRA): merge them into the weights (merge_and_unload) before saving."
    if missing and left_over:
        return "The weights have other names: the file is of another class of model, or of another version of it."
    if missing:
        return "The file is incomplete: a shard is missing, or a part of the model was saved."
    return "The file is of a larger model: the sizes are another one's, or the class leaves a part out."
