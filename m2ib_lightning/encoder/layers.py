"""The layers of an image-text model, from the top down."""

from __future__ import annotations

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.towers import Encoder

_BEFORE_THE_BLOCKS = ("embed", "pre_layrnorm", "ln_pre", "norm_pre", "conv1", "cls_token", "reg_token", "cls_emb")
"""Parts of the names of parameters that stand before the blocks."""


def from_the_top(encoder: Encoder) -> list[list[str]]:
    """Return the parameter names of each layer, from the output down to the embeddings.

    The first layer is what follows the blocks (norms, pooling, projections). The blocks of both towers follow together,
    from the last to the first. The embeddings are the last layer. A parameter that is a single number, such as the
    temperature, is left out.
    """
    blocks_above: dict[int, int] = {}  # number of blocks above a block, by the id of its parameters
    depth = 0
    for modality in MODALITIES:
        blocks = list(encoder.towers[modality].blocks)
        depth = max(depth, len(blocks))
        for count, block in enumerate(reversed(blocks)):
            blocks_above |= {id(parameter): count for parameter in block.parameters()}
    layers: list[list[str]] = [[] for _ in range(depth + 2)]
    for name, parameter in encoder.model.named_parameters():
        is_embedding = any(part in name for part in _BEFORE_THE_BLOCKS)
        layer = blocks_above.get(id(parameter), depth if is_embedding else -1) + 1
        if parameter.numel() > 1:
            layers[layer].append(name)
    return [names for names in layers if names]
