"""How the loop runs the suffixes: in which dtype, compiled or not, and how many rows at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from m2ib_lightning.config import Modality
from m2ib_lightning.encoder.suffix import Suffix, make_suffix
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.m2ib.chunks import default_max_rows
from m2ib_lightning.m2ib.optimise import SuffixFunction


class SuffixPlan(NamedTuple):
    """A suffix and how the loop runs it.

    Attributes:
        suffix: the frozen rest of a tower after the cut.
        function: the suffix itself, or its compiled form.
        max_rows: largest number of rows that go through it at a time.
    """

    suffix: Suffix
    function: SuffixFunction
    max_rows: int


class SuffixPlans:
    """The suffixes of a run, each made once.

    Args:
        encoder: the model, frozen and in its place.
        max_rows: largest number of rows that go through a suffix at a time; None for a default.
        compiled: whether to run the suffixes through ``torch.compile``.
    """

    def __init__(self, encoder: Encoder, max_rows: int | None, *, compiled: bool) -> None:
        self._encoder = encoder
        self._max_rows = max_rows
        self._compiled = compiled
        self._plans: dict[tuple[Modality, torch.dtype], SuffixPlan] = {}

    def plan(self, modality: Modality, layer: int, alpha: Tensor) -> SuffixPlan:
        """Return a tower's suffix after ``layer`` in the current compute dtype: autocast's, or that of the alphas."""
        device = alpha.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else alpha.dtype
        if (modality, dtype) not in self._plans:
            tower = self._encoder.towers[modality]
            suffix = make_suffix(tower, layer, dtype)
            function: SuffixFunction = torch.compile(suffix.__call__) if self._compiled else suffix
            max_rows = self._max_rows or default_max_rows(tower, layer, dtype, alpha.device)
            self._plans[modality, dtype] = SuffixPlan(suffix, function, max_rows)
        return self._plans[modality, dtype]
