"""Low-rank adapters on the blocks of both towers, with ``peft``."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.m2ib.seeding import seeded

ADAPTER = "lora_"
"""Part of the name of every adapter's parameters."""


def add_adapters(encoder: Encoder, rank: int, seed: int) -> None:
    r"""Replace the weight W of each linear layer in the blocks by :math:`W + 2 B A` (LoRA; Hu et al., ICLR 2022).

    A (rank, in) is drawn from the seed. B (out, rank) starts at 0, so the model's outputs do not change at first.

    Args:
        encoder: the encoder; its model is changed in place.
        rank: rank of the product B A.
        seed: seed of the entries of A.

    Raises:
        M2IBError: if ``peft`` is not installed, or the model has adapters already.
    """
    if any(ADAPTER in name for name, _ in encoder.model.named_parameters()):
        raise M2IBError("the model has adapters already: merge them, or load it again")
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise M2IBError("finetune.train=lora needs peft: pip install 'm2ib_lightning[lora]'") from None
    blocks = {id(block) for m in MODALITIES for block in encoder.towers[m].blocks}
    targets = [
        f"{name}.{inner}"
        for name, module in encoder.model.named_modules()
        if id(module) in blocks
        for inner, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        and not isinstance(layer, NonDynamicallyQuantizableLinear)  # nn.MultiheadAttention reads its weight only
    ]
    with seeded(seed):
        inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets), encoder.model)


def merge_adapters(model: nn.Module) -> None:
    """Merge every adapter into its layer's weight and remove it; a model without adapters is not changed."""
    if not any(ADAPTER in name for name, _ in model.named_parameters()):
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer):
                adapted: Any = layer
                adapted.merge(safe_merge=True)
                setattr(parent, name, adapted.get_base_layer())
