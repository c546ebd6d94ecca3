"""The weights that the embeddings depend on. A model may have others: mask tokens, poolers, heads of other tasks."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.families.family import Inputs
from m2ib_lightning.models import LoadedModel


def reached_weights(model: LoadedModel) -> set[str]:
    """Return the names of the parameters that the two embeddings or the factor of the cosines depend on.

    The gradient of one pair tells: a grey picture and a caption of one word. DistributedDataParallel would wait for the
    gradients of all others.
    """
    encoder = model.encoder
    named = {name: parameter for name, parameter in encoder.model.named_parameters() if parameter.requires_grad}
    if model.processor is None:  # a model that gets tensors made elsewhere
        return set(named) - {"logit_bias"}
    device, preparer = next(encoder.model.parameters()).device, model.preparer
    pixels, _ = preparer.framing(Image.new("RGB", (64, 64), "grey"))
    ids, _ = preparer.read_caption("a")
    inputs: dict[Modality, Inputs] = {"image": {"pixel_values": pixels[None]}, "text": preparer.pad([ids])}
    with torch.enable_grad():
        total: Tensor = encoder.family.scale(encoder.model)
        for modality in MODALITIES:
            tower = encoder.towers[modality]
            hidden = tower.prefix_with_gradients({k: v.to(device) for k, v in inputs[modality].items()}, -1)
            total = total + tower.suffix(hidden.z, -1, hidden.layout).sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return {name for name, gradient in zip(named, gradients, strict=True) if gradient is not None}
