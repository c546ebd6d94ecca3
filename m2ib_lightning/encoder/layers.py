"""The layers of an image-text model, from the top down."""

from __future__ import annotations

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.towers import Encoder


def from_the_top(encoder: Encoder) -> list[list[str]]:
    """The names of the parameters, layer by layer.

    First what is above the blocks (norms, pooling, projections), then the blocks of both towers side by side from the
    last to the first, then the embeddings. The temperature, a single number, is in none of them.
    """
    place: dict[int, int] = {}  # of a block's parameter: how many blocks are above it
    deepest = 0
    for modality in MODALITIES:
        blocks = list(encoder.towers[modality].blocks)
        deepest = max(deepest, len(blocks))
        for above, block in enumerate(reversed(blocks)):
            place |= {id(parameter): above for parameter in block.parameters()}
    stages: list[list[str]] = [[] for _ in range(deepest + 2)]
    for name, parameter in encoder.model.named_parameters():
        bottom = "embed" in name or "pre_layrnorm" in name
        stage = place.get(id(parameter), deepest if bottom else -1) + 1
        if parameter.numel() > 1:
            stages[stage].append(name)
    return [names for names in stages if names]
