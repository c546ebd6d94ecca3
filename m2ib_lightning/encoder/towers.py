"""Towers cut in two: the prefix runs once per pair, the suffix in every optimiser step.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.families.family import Family, Inputs, TowerSpec, family_of
from m2ib_lightning.errors import M2IBError


@dataclass(frozen=True)
class Hidden:
    """The hidden states of a batch at the cut, and which of its tokens the tower reads.

    Attributes:
        z: (B, T, D) hidden states.
        valid: (B, T) bool, True for the tokens that the tower reads.
        pooled: (B,) position of the token that pooling reads; None if pooling reads all tokens.
        padded: whether some tokens may be padding that the tower does not read.
    """

    z: Tensor
    valid: Tensor
    pooled: Tensor | None
    padded: bool = True

    def lengths(self) -> list[int]:
        """Return how many tokens of each pair the tower reads. With padding, the call synchronises with the device."""
        pairs, tokens = self.valid.shape
        return self.valid.sum(-1).tolist() if self.padded else [tokens] * pairs


class Tower:
    """One frozen encoder of an image-text model, run block by block. The model is never changed.

    Args:
        model: the Hugging Face model.
        spec: the family's description of this tower.
        modality: image or text.
    """

    def __init__(self, model: Any, spec: TowerSpec, modality: Modality) -> None:
        self.model = model
        self.spec = spec
        self.modality: Modality = modality

    @property
    def blocks(self) -> nn.ModuleList:
        """The tower's transformer blocks, from the first to the last."""
        return self.spec.blocks(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point dtype of the weights."""
        return next(self.blocks.parameters()).dtype

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return self.spec.width(self.model)

    @property
    def embedding_size(self) -> int:
        """Size E of the embeddings, as the head gives it."""
        hidden = next(self.blocks.parameters()).new_zeros(1, self.width)
        with torch.no_grad():
            return self.spec.head(self.model, hidden if self.spec.pooled else hidden[:, None]).shape[-1]

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens that the tower takes, T_max. The noise is drawn for this many."""
        return self.spec.max_tokens(self.model)

    def read_lengths(self, inputs: Inputs) -> list[int]:
        """Return, for each pair, how many leading tokens of its inputs the tower reads."""
        if self.spec.lengths is not None:
            return self.spec.lengths(self.model, inputs).tolist()
        pairs, tokens = next(iter(inputs.values())).shape[:2]
        return [tokens] * pairs

    def resolve_layer(self, layer: int | None) -> int:
        """Return the layer to cut at: ``layer``, or the published 9 of 12 scaled to this depth if it is None.

        Raises:
            M2IBError: if the layer is out of range. The last block's output is refused if pooling reads one token,
                because no other token can matter there.
        """
        depth = len(self.blocks)
        if layer is None:
            return max(-1, min(round(0.75 * depth), depth - 2))
        deepest = depth - 1 if self.spec.pooled is None else depth - 2
        if not -1 <= layer <= deepest:
            reason = " (the last block's output: pooling reads one token, so no other can matter there)"
            raise M2IBError(
                f"bottleneck.{self.modality}.layer={layer} is out of range{reason if layer == depth - 1 else ''}: this "
                f"tower has {depth} blocks, so the layer goes from -1 (the first block's input) to {deepest}."
            )
        return layer

    @torch.no_grad()
    def prefix(self, inputs: Inputs, layer: int) -> Hidden:
        """Run a batch up to the cut: the embeddings and the blocks 0 to ``layer``, without gradients."""
        return self.prefix_with_gradients(inputs, layer)

    def prefix_with_gradients(self, inputs: Inputs, layer: int) -> Hidden:
        """Run a batch up to the cut as ``prefix`` does, but with gradients unless the caller has turned them off."""
        hidden = self.spec.embed(self.model, inputs)  # (B, T, D)
        pairs, tokens = hidden.shape[:2]
        if self.spec.lengths is None:
            valid = torch.ones(pairs, tokens, dtype=torch.bool, device=hidden.device)
        else:
            positions = torch.arange(tokens, device=hidden.device)
            valid = positions[None] < self.spec.lengths(self.model, inputs)[:, None]
            # Attention weights padding with 0, but 0 * NaN is NaN: a NaN in its embedding would reach every token.
            hidden = hidden.masked_fill(~valid[..., None], 0)
        hidden = self.advance(hidden, -1, layer)
        pooled = None if self.spec.pooled is None else self.spec.pooled(self.model, inputs)
        return Hidden(hidden, valid, pooled, padded=self.spec.lengths is not None)

    def suffix(self, hidden: Tensor, layer: int, pooled: Tensor | None) -> Tensor:
        """Run hidden states (N, T, D) from the cut to the embeddings (N, E): the other blocks, norm and projection."""
        hidden = self.advance(hidden, layer, len(self.blocks) - 1)
        if pooled is not None:
            hidden = hidden[torch.arange(len(hidden), device=hidden.device), pooled]  # (N, D)
        return self.spec.head(self.model, hidden)

    def advance(self, hidden: Tensor, layer: int, last: int) -> Tensor:
        """Run hidden states (N, T, D) at the cut after block ``layer`` through the next blocks, up to ``last``."""
        arguments = self.spec.block_arguments(self.model, hidden)
        for block in self.blocks[layer + 1 : last + 1]:
            hidden = block(hidden, **arguments)
        return hidden


class Encoder:
    """An image-text model as two towers.

    Args:
        model: a Hugging Face model of a registered family.

    Attributes:
        family: the model's family.
        towers: the image tower and the text tower.

    Raises:
        M2IBError: if the model's type is not supported. The message lists the supported types.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.family: Family = family_of(model)
        self.towers: dict[Modality, Tower] = {
            modality: Tower(model, getattr(self.family, modality), modality) for modality in MODALITIES
        }

    def arguments(self, modality: Modality, inputs: Inputs) -> Iterator[tuple[str, Tensor]]:
        """Yield the arguments, by name, with which the model's own functions take the inputs of a tower."""
        names = self.family.text_arguments if modality == "text" else tuple(inputs)
        return ((name, inputs[name]) for name in names if name in inputs)

    def features(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Return the embeddings (B, E) that the model's own ``get_image_features`` or ``get_text_features`` gives.

        Raises:
            M2IBError: if the model has no such function.
        """
        function = getattr(self.model, f"get_{modality}_features", None)
        if function is None:
            raise M2IBError(
                f"{type(self.model).__name__} has no get_{modality}_features, with which its {modality} tower is "
                "checked: a model needs get_image_features and get_text_features"
            )
        output: Any = function(**dict(self.arguments(modality, inputs)))
        return output if torch.is_tensor(output) else output.pooler_output
