"""The description of a model family, and the registry of families.

Legend: B pairs, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from m2ib_lightning.encoder.families.block_parts import BlockParts, PoolingParts
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.registry import Registry

Inputs = Mapping[str, Tensor]
"""A processor's output for one tower: ``pixel_values``, or ``input_ids`` and ``attention_mask``."""


@dataclass(frozen=True)
class TowerSpec:
    """The description of one tower of a Hugging Face model: how to run it block by block.

    Attributes:
        embed: (model, inputs) -> (B, T, D), the first block's input.
        blocks: model -> list of blocks, each mapping (B, T, D) to (B, T, D).
        block_arguments: (model, hidden) -> further arguments of every block, such as the attention mask.
        head: final norm, pooling and projection: (model, (B, D)) -> (B, E) from the pooled token, or
            (model, (B, T, D)) -> (B, E) if pooling reads every token.
        pooled: (model, inputs) -> (B,) position of the token that pooling reads; None if pooling reads every token.
        lengths: (model, inputs) -> (B,) number of leading tokens that the tower reads; None if it reads every token.
        max_tokens: model -> T_max, the tower's largest number of tokens.
        width: model -> D.
        prefix_tokens: number of leading tokens that are not patches (the class token); for image towers.
        grid: (model, inputs) -> number of rows and columns of patches; for image towers.
        parts: block -> parts from which the loop builds a fused block, or None if the block has been modified. The
            function is None for a family whose blocks are of another kind.
        causal: whether a token reads only itself and the tokens before it; used with ``parts``.
        words: model -> table of word embeddings, for text towers; methods that remove words need it.
        pooling: model -> parts of the attention that pools over all tokens; methods that read attention need it.
    """

    embed: Callable[[Any, Inputs], Tensor]
    blocks: Callable[[Any], nn.ModuleList]
    block_arguments: Callable[[Any, Tensor], dict[str, Any]]
    head: Callable[[Any, Tensor], Tensor]
    pooled: Callable[[Any, Inputs], Tensor] | None
    lengths: Callable[[Any, Inputs], Tensor] | None
    max_tokens: Callable[[Any], int]
    width: Callable[[Any], int]
    prefix_tokens: int = 0
    grid: Callable[[Any, Inputs], tuple[int, int]] | None = None
    parts: Callable[[Any], BlockParts | None] | None = None
    causal: bool = False
    words: Callable[[Any], nn.Embedding] | None = None
    pooling: Callable[[Any], PoolingParts] | None = None


def patch_grid(model: Any, inputs: Inputs) -> tuple[int, int]:
    """Return the number of rows and columns of patches in an image. The vision config must have a ``patch_size``."""
    height, width = inputs["pixel_values"].shape[-2:]
    patch = model.config.vision_config.patch_size
    return height // patch, width // patch


@dataclass(frozen=True)
class Family:
    """A family of image-text models: its two towers, and how its captions are padded.

    Attributes:
        image: description of the image tower.
        text: description of the text tower.
        padding: the tokenizer's ``padding`` argument: True (to the longest caption of the batch) or ``"max_length"``.
        text_arguments: names of the tokenizer's outputs that the model is called with.
    """

    image: TowerSpec
    text: TowerSpec
    padding: bool | str = True
    text_arguments: tuple[str, ...] = ("input_ids", "attention_mask")


_FAMILIES: Registry[Family] = Registry("model family", "register_family")


def register_family(model_type: str, family: Family) -> None:
    """Add a family under the ``model_type`` of its Hugging Face config.

    Raises:
        ValueError: if the ``model_type`` is registered already.
    """
    _FAMILIES.register(model_type, family)


def family_of(model: Any) -> Family:
    """Return the family of a loaded model.

    Raises:
        M2IBError: if the model's type is not registered. The message lists the supported types.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in _FAMILIES:
        raise M2IBError(
            f"models of type {model_type!r} are not supported; the supported types are {', '.join(_FAMILIES)}. "
            "Another family can be added with m2ib_lightning.register_family(model_type, Family(...))."
        )
    return _FAMILIES.get(model_type)
