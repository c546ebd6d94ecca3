"""SigLIP 2 with a variable grid (NaFlex): each picture keeps its proportions, and has a grid of its own.

The package hands pictures over as pixels (``Inputs``). The model reads flattened patches, padded to the largest number
in the batch, with a mask.

Legend: B pairs, T patches, N sequences, D width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from m2ib_lightning.encoder.families.family import About, Family, Inputs, patch_grid, register_family
from m2ib_lightning.encoder.families.reading import padding_mask
from m2ib_lightning.encoder.families.siglip import IMAGE, TEXT
from m2ib_lightning.encoder.layout import Layout


def _pictures(inputs: Inputs) -> list[Tensor]:
    """Return the pictures (channels, height, width) of a batch."""
    pixels = inputs["pixel_values"]
    if "picture_sizes" not in inputs:
        return list(pixels)
    sizes = inputs["picture_sizes"].tolist()
    return [row[:, : h * w].unflatten(1, (h, w)) for row, (h, w) in zip(pixels, sizes, strict=True)]


def _grids(model: Any, inputs: Inputs) -> Tensor:
    """Return the rows and columns (B, 2) of patches of each picture."""
    sizes = torch.tensor([picture.shape[1:] for picture in _pictures(inputs)], device=inputs["pixel_values"].device)
    grids: Tensor = sizes // model.config.vision_config.patch_size
    return grids


def _patches(model: Any, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
    """Return what the model reads: flattened patches, (B, T, values), their grids (B, 2) and their mask (B, T)."""
    side: int = model.config.vision_config.patch_size
    grids = _grids(model, inputs)
    rows = [
        picture.unflatten(1, (height, side))
        .unflatten(3, (width, side))  # (channels, h, side, w, side)
        .permute(1, 3, 2, 4, 0)
        .flatten(2)
        .flatten(0, 1)
        for picture, (height, width) in zip(_pictures(inputs), grids.tolist(), strict=True)
    ]
    return pad_sequence(rows, batch_first=True), grids, _reads(model, inputs)


def _reads(model: Any, inputs: Inputs) -> Tensor:
    counts = _grids(model, inputs).prod(-1)
    patches = torch.arange(int(counts.max()), device=counts.device)
    return patches[None] < counts[:, None]


def _embed(model: Any, inputs: Inputs) -> Tensor:
    patches, grids, _ = _patches(model, inputs)
    embedded: Tensor = model.vision_model.embeddings(patches, grids)
    return embedded


def _pool(model: Any, hidden: Tensor, layout: Layout) -> Tensor:
    mask = layout.valid.long() if layout.padded else None
    pooled: Tensor = model.vision_model.head(model.vision_model.post_layernorm(hidden), mask)
    return pooled


def _own(model: Any, inputs: Inputs) -> Tensor:
    patches, grids, mask = _patches(model, inputs)
    output = model.get_image_features(pixel_values=patches, pixel_attention_mask=mask.long(), spatial_shapes=grids)
    embedding: Tensor = output.pooler_output
    return embedding


register_family(
    "Siglip2Model",
    Family(
        replace(
            IMAGE,
            embed=_embed,
            arguments=padding_mask(lambda model: model.vision_model.config),
            pool=_pool,
            reads=_reads,
            max_tokens=lambda model: model.vision_model.embeddings.num_patches,
            grid=patch_grid,
            own=_own,
        ),
        TEXT,
        padding="max_length",
        text_arguments=("input_ids",),
    ),
    About("SigLIP 2 with a variable grid (NaFlex)", "google/siglip2-base-patch16-naflex", "random weights"),
)
