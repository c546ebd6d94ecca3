"""The layers of an image-text model, from the top down."""

from __future__ import annotations

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.towers import Encoder


def from_the_top(encoder: Encoder) -> list[list[str]]:
    """Return the names of the parameters by layer, from the top down.

    The first layer is what follows the blocks (norms, pooling, projections). Then come the blocks of both towers
    together, from the last to the first, then the embeddings. The temperature, a single number, is left out.
    """
    blocks_above: dict[int, int] = {}  # by the id of a block's parameter
    depth = 0
    for modality in MODALITIES:
        blocks = list(encoder.towers[modality].blocks)
        depth = max(depth, len(blocks))
        for above, block in enumerate(reversed(blocks)):
            blocks_above |= {id(parameter): above for parameter in block.parameters()}
    layers: list[list[str]] = [[] for _ in range(depth + 2)]
    for name, parameter in encoder.model.named_parameters():
        is_embedding = "embed" in name or "pre_layrnorm" in name
        layer = blocks_above.get(id(parameter), depth if is_embedding else -1) + 1
        if parameter.numel() > 1:
            layers[layer].append(name)
    return [names for names in layers if names]
