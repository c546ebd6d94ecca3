"""What a family must say about itself, and where families are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from m2ib_lightning.encoder.families.block_parts import BlockParts, PoolingParts
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.registry import Registry

Inputs = Mapping[str, Tensor]
"""What a processor gives one tower: ``pixel_values``, or ``input_ids`` and ``attention_mask``."""


@dataclass(frozen=True)
class TowerSpec:
    """How to run one tower of a Hugging Face model block by block.

    Attributes:
        embed: (model, inputs) -> (B, T, D), the first block's input.
        blocks: model -> its list of blocks, each mapping (B, T, D) to (B, T, D).
        block_arguments: (model, hidden) -> what every block takes beside the hidden states: the attention mask.
        head: final norm, pooling and projection: (model, (B, D)) -> (B, E) of the pooled token, or
            (model, (B, T, D)) -> (B, E) where pooling reads every token.
        pooled: (model, inputs) -> (B,), the position of the one token that pooling reads; None where it reads them all.
        lengths: (model, inputs) -> (B,), how many leading tokens the tower reads; None where it reads them all.
        max_tokens: model -> T_max, the tower's largest number of tokens.
        width: model -> D.
        embedding_size: model -> E.
        prefix_tokens: images: how many leading tokens are no patch (the class token).
        grid: images: (model, inputs) -> patches (high, wide).
        parts: block -> what it is made of, so that the loop can run it faster, or None for one that is not as usual.
            None for a family whose blocks are of another kind.
        causal: with ``parts``: whether a token reads only those before it.
        words: captions: model -> the table of word embeddings; attribution methods that take words away need it.
        pooling: for towers that pool over all tokens: model -> the attention that does it; methods that read attention
            need it.
    """

    embed: Callable[[Any, Inputs], Tensor]
    blocks: Callable[[Any], nn.ModuleList]
    block_arguments: Callable[[Any, Tensor], dict[str, Any]]
    head: Callable[[Any, Tensor], Tensor]
    pooled: Callable[[Any, Inputs], Tensor] | None
    lengths: Callable[[Any, Inputs], Tensor] | None
    max_tokens: Callable[[Any], int]
    width: Callable[[Any], int]
    embedding_size: Callable[[Any], int]
    prefix_tokens: int = 0
    grid: Callable[[Any, Inputs], tuple[int, int]] | None = None
    parts: Callable[[Any], BlockParts | None] | None = None
    causal: bool = False
    words: Callable[[Any], nn.Embedding] | None = None
    pooling: Callable[[Any], PoolingParts] | None = None


def patch_grid(model: Any, inputs: Inputs) -> tuple[int, int]:
    """A ``grid`` for towers whose configuration has a ``patch_size``: how many patches the image has."""
    height, width = inputs["pixel_values"].shape[-2:]
    patch = model.config.vision_config.patch_size
    return height // patch, width // patch


@dataclass(frozen=True)
class Family:
    """A family of image-text models: its two towers, and how its captions are padded.

    Attributes:
        image: the image tower.
        text: the text tower.
        padding: the tokenizer's ``padding`` argument: True (to the longest of the batch) or ``"max_length"``.
    """

    image: TowerSpec
    text: TowerSpec
    padding: bool | str = True


_FAMILIES: Registry[Family] = Registry("model family", "register_family")


def register_family(model_type: str, family: Family) -> None:
    """Add a family under the ``model_type`` of its Hugging Face config.

    Raises:
        ValueError: if that type is registered already.
    """
    _FAMILIES.register(model_type, family)


def family_of(model: Any) -> Family:
    """The family of a loaded model.

    Raises:
        M2IBError: if its type is not registered; lists the supported ones.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if model_type not in _FAMILIES:
        raise M2IBError(
            f"models of type {model_type!r} are not supported: there is {', '.join(_FAMILIES)}. "
            "Another family can be added with m2ib_lightning.register_family(model_type, Family(...))."
        )
    return _FAMILIES.get(model_type)
