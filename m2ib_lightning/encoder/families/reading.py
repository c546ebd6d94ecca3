"""What several families share: which tokens a tower reads, where it pools, and the attention masks for it.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask

from m2ib_lightning.encoder.families.family import Inputs
from m2ib_lightning.encoder.layout import Layout

Position = Callable[[Any, Inputs], Tensor]
"""Function from a model and the inputs of a tower to a position (B,) in each sequence."""

Arguments = Callable[[Any, Tensor, Layout], dict[str, Any]]
"""Function from a model, hidden states and their layout to the arguments of every block."""


def first_token(model: Any, inputs: Inputs) -> Tensor:
    """Return the position (B,) of the class token, which is 0."""
    first = next(iter(inputs.values()))
    return torch.zeros(len(first), dtype=torch.long, device=first.device)


def last_token(model: Any, inputs: Inputs) -> Tensor:
    """Return the last position (B,), padding included."""
    ids = inputs["input_ids"]
    return torch.full((len(ids),), ids.shape[1] - 1, device=ids.device)


def largest_id(model: Any, inputs: Inputs) -> Tensor:
    """Return the position (B,) of the largest token id, where the end of text has the largest."""
    return inputs["input_ids"].argmax(-1)


def first_of(end_id: Callable[[Any], int]) -> Position:
    """Return a function to the position (B,) of the first end-of-text token.

    Args:
        end_id: model -> id of that token.
    """
    return lambda model, inputs: (inputs["input_ids"] == end_id(model)).int().argmax(-1)


def up_to(position: Position) -> Callable[[Any, Inputs], Tensor]:
    """Return a function to the tokens (B, T) that a causal tower reads, which pools at ``position``."""

    def reads(model: Any, inputs: Inputs) -> Tensor:
        tokens = torch.arange(inputs["input_ids"].shape[1], device=inputs["input_ids"].device)
        return tokens[None] <= position(model, inputs)[:, None]

    return reads


def not_padding(model: Any, inputs: Inputs) -> Tensor:
    """Return the tokens (B, T) that are no padding, by the tokenizer's mask; without a mask, all tokens."""
    mask = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"], dtype=torch.bool) if mask is None else mask.bool()


def token_inputs(inputs: Inputs) -> dict[str, Tensor]:
    """Return the ids of the tokens and, where there is one, their mask, as arguments of the model's own functions."""
    return {name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs}


def as_pooled(model: Any, pooled: Tensor) -> Tensor:
    """Return the pooled vector: no projection follows."""
    return pooled


def no_mask(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
    """Return the arguments of blocks in which every token reads every other."""
    return {"attention_mask": None}


def causal_mask(config: Callable[[Any], Any]) -> Arguments:
    """Return the arguments of blocks in which a token reads only itself and the tokens before it.

    Args:
        config: model -> configuration of the tower.
    """

    def arguments(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
        mask = create_causal_mask(config=config(model), inputs_embeds=hidden, attention_mask=None, past_key_values=None)
        return {"attention_mask": mask, "is_causal": True}

    return arguments


def padding_mask(config: Callable[[Any], Any]) -> Arguments:
    """Return the arguments of blocks in which every token reads all tokens that are no padding.

    Args:
        config: model -> configuration of the tower.
    """

    def arguments(model: Any, hidden: Tensor, layout: Layout) -> dict[str, Any]:
        if not layout.padded:
            return {"attention_mask": None}
        mask = create_bidirectional_mask(config=config(model), inputs_embeds=hidden, attention_mask=layout.valid)
        return {"attention_mask": mask}

    return arguments
