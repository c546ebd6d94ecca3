"""Cascading parameter randomisation, from the top down (Adebayo et al., NeurIPS 2018).

A map that does not change with the weights does not explain the model. A parameter is randomised by shuffling its
entries, which keeps their distribution; the authors draw new entries.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from dataclasses import replace

import torch

from m2ib_lightning.encoder.layers import from_the_top
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.models import LoadedModel

_MAX_STOPS = 6
"""Largest number of stages after which maps are made; in a deep model these stages are spaced evenly."""


class RandomisedModel:
    """A copy of a model that is randomised stage by stage; the original never changes.

    The first stage is everything above the blocks (norms, pooling, projections). Then come the blocks of both towers
    together, from the last to the first, and then the embeddings.

    Args:
        model: the original.
        seed: seed of the shuffling.
    """

    def __init__(self, model: LoadedModel, seed: int) -> None:
        self.original = model
        self.seed = seed
        self.model = replace(model, encoder=Encoder(copy.deepcopy(model.encoder.model)))
        self.stages = from_the_top(self.model.encoder)

    def cascade(self) -> Iterator[int]:
        """Randomise the copy stage by stage; yield the percentage of random stages, at most six times."""
        self._restore()
        last = len(self.stages)
        stops = {max(1, round(last * k / _MAX_STOPS)) for k in range(1, _MAX_STOPS + 1)}
        for done, names in enumerate(self.stages, 1):
            for name in names:
                self._shuffle(name)
            if done in stops:
                yield round(100 * done / last)

    @torch.no_grad()
    def _restore(self) -> None:
        """Give the copy the original's parameters. Its buffers never change."""
        original = dict(self.original.encoder.model.named_parameters())
        for name, parameter in self.model.encoder.model.named_parameters():
            parameter.copy_(original[name])

    @torch.no_grad()
    def _shuffle(self, name: str) -> None:
        parameter = self.model.encoder.model.get_parameter(name)
        key = hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7]
        order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(int.from_bytes(key)))
        parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
