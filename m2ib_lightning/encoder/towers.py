"""Towers cut in two: the prefix runs once per pair, the suffix in every optimiser step.

Legend: B pairs, N sequences (each a draw of a pair), T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.families.family import Family, Inputs, TowerSpec, family_of
from m2ib_lightning.encoder.layout import Hidden, Layout
from m2ib_lightning.errors import M2IBError


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
    def blocks(self) -> Sequence[nn.Module]:
        """The tower's transformer blocks, from the first to the last."""
        return self.spec.blocks(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point dtype of the weights."""
        return self._weight.dtype

    @property
    def width(self) -> int:
        """Width D of the hidden states."""
        return self.spec.width(self.model)

    @property
    def max_tokens(self) -> int:
        """Largest number of tokens that the tower takes at its own resolution, T_max."""
        return self.spec.max_tokens(self.model)

    @property
    def embedding_size(self) -> int:
        """Size E of the embeddings, as the head gives it."""
        hidden = self._weight.new_zeros(1, 1, self.width)
        layout = Layout(torch.ones(1, 1, dtype=torch.bool, device=hidden.device), None, padded=False)
        with torch.no_grad():
            pooled = hidden[:, 0] if self.spec.pool is None else self.spec.pool(self.model, hidden, layout)
            return self.spec.head(self.model, pooled).shape[-1]

    @property
    def _weight(self) -> Tensor:
        return next(self.blocks[0].parameters())

    def grids(self, inputs: Inputs) -> list[tuple[int, int]]:
        """Return the number of rows and columns of patches of each picture."""
        assert self.spec.grid is not None
        pixels = inputs["pixel_values"]
        same = [pixels.shape[-2:]] * len(pixels)
        sizes = inputs["picture_sizes"].tolist() if "picture_sizes" in inputs else same
        return [self.spec.grid(self.model, (height, width)) for height, width in sizes]

    def reads(self, inputs: Inputs) -> Tensor:
        """Return which tokens of its inputs the tower reads, (B, T) bool."""
        if self.spec.reads is not None:
            return self.spec.reads(self.model, inputs)
        first = next(iter(inputs.values()))
        return torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)

    def resolve_layer(self, layer: int | None) -> int:
        """Return the layer to cut at: ``layer``, or the published 9 of 12 scaled to this depth if it is None.

        Raises:
            M2IBError: if the layer is out of range. The last block's output is refused if pooling reads one token,
                because no other token can matter there.
        """
        depth = len(self.blocks)
        if layer is None:
            return max(-1, min(round(0.75 * depth), depth - 2))
        deepest = depth - 2 if self.spec.pool is None else depth - 1
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
        embedded = self.embed(inputs)
        return Hidden(self.advance(embedded.z, -1, layer, embedded.layout), embedded.layout)

    def embed(self, inputs: Inputs) -> Hidden:
        """Return the first block's input, with gradients unless the caller has turned them off."""
        inputs = self.cast(inputs)
        hidden = self.spec.embed(self.model, inputs)  # (B, T, D)
        pooled = None if self.spec.pooled is None else self.spec.pooled(self.model, inputs)
        if self.spec.reads is None:
            valid = torch.ones(hidden.shape[:2], dtype=torch.bool, device=hidden.device)
            return Hidden(hidden, Layout(valid, pooled, padded=False))
        valid = self.spec.reads(self.model, inputs)
        # Attention weights padding with 0, but 0 * NaN is NaN: a NaN in its embedding would reach every token.
        keys = None if self.spec.attends is None else self.spec.attends(self.model, inputs)
        return Hidden(hidden.masked_fill(~valid[..., None], 0), Layout(valid, pooled, keys=keys))

    def cast(self, inputs: Inputs) -> Inputs:
        """Return the inputs with pixels in the dtype of the weights."""
        return {name: x.to(self.dtype) if x.is_floating_point() else x for name, x in inputs.items()}

    def suffix(self, hidden: Tensor, layer: int, layout: Layout) -> Tensor:
        """Run hidden states (N, T, D) from the cut to the embeddings (N, E): the other blocks, pooling and head."""
        return self.finish(self.advance(hidden, layer, len(self.blocks) - 1, layout), layout)

    def finish(self, hidden: Tensor, layout: Layout) -> Tensor:
        """Pool the last block's output (N, T, D), and embed it to (N, E)."""
        if self.spec.pool is not None:
            pooled = self.spec.pool(self.model, hidden, layout)
        else:
            pooled = hidden[torch.arange(len(hidden), device=hidden.device), layout.pooled]  # (N, D)
        return self.spec.head(self.model, pooled)

    def advance(self, hidden: Tensor, layer: int, last: int, layout: Layout) -> Tensor:
        """Run hidden states (N, T, D) at the cut after block ``layer`` through the next blocks, up to ``last``."""
        blocks = self.blocks[layer + 1 : last + 1]
        if blocks:
            arguments = self.spec.arguments(self.model, hidden, layout)
        for block in blocks:
            output = block(hidden, **arguments)
            hidden = output if torch.is_tensor(output) else output[0]
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
        inputs = self.towers[modality].cast(inputs)
        own = self.towers[modality].spec.own
        if own is not None:
            return own(self.model, inputs)
        function = getattr(self.model, f"get_{modality}_features", None)
        if function is None:
            raise M2IBError(
                f"{type(self.model).__name__} has no get_{modality}_features, with which its {modality} tower is "
                "checked: give own= to its TowerSpec"
            )
        output: Any = function(**dict(self.arguments(modality, inputs)))
        return output if torch.is_tensor(output) else output.pooler_output
