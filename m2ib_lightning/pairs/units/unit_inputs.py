"""The texts that the targets of a batch's units are made of, tokenised.

Legend: N units, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from m2ib_lightning.pairs.units.unit_rule import UnitTarget


@dataclass(frozen=True)
class UnitInputs:
    """The units of a batch that the text tower reads.

    Attributes:
        places: for each unit, the index of its pair in the batch, and its index in ``pair.units``.
        target: what the units are compared with (``UnitRule``).
        inputs: ``input_ids`` and ``attention_mask`` (N, T) of each unit's text (``UnitRule.other_text``); empty if
            there is no unit.
        against: the same (1, T) for the other text of ``target="contrast"``, else None.
    """

    places: list[tuple[int, int]]
    target: UnitTarget
    inputs: dict[str, Tensor]
    against: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.places)

    def rows(self, device: torch.device) -> Tensor:
        """Return the index (N,) of each unit's pair in the batch."""
        return torch.tensor([row for row, _ in self.places], dtype=torch.long, device=device)

    def apply(self, function: Callable[[Tensor], Tensor]) -> UnitInputs:
        """Return the units with a function applied to each tensor."""
        inputs = {name: function(tensor) for name, tensor in self.inputs.items()}
        against = None if self.against is None else {name: function(tensor) for name, tensor in self.against.items()}
        return replace(self, inputs=inputs, against=against)

    def some(self, pairs: Sequence[int]) -> UnitInputs:
        """Return the units of some pairs of the batch, by the pairs' indices."""
        new_rows = {row: new for new, row in enumerate(pairs)}
        kept = [index for index, (row, _) in enumerate(self.places) if row in new_rows]
        places = [(new_rows[self.places[index][0]], self.places[index][1]) for index in kept]
        inputs = {name: tensor[kept] for name, tensor in self.inputs.items()} if kept else {}
        return replace(self, places=places, inputs=inputs)
