"""Random weights, from the top down: a map that does not change with them does not explain the model.

Cascading parameter randomisation (Adebayo et al., NeurIPS 2018). A parameter is randomised by shuffling its entries,
which keeps their distribution; the authors draw new ones.
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

_MOST = 6
"""Stages at which maps are made; a deep model's are spaced evenly."""


class RandomisedModel:
    """A copy of a model, made random step by step; the original is not touched.

    Stage 1 is what is above the blocks (norms, pooling, projections), then come the blocks of both towers at once from
    the last to the first, then the embeddings.

    Args:
        model: the original.
        seed: keys the shuffling.
    """

    def __init__(self, model: LoadedModel, seed: int) -> None:
        self.original = model
        self.seed = seed
        self.model = replace(model, encoder=Encoder(copy.deepcopy(model.encoder.model)))
        self.stages = from_the_top(self.model.encoder)

    def cascade(self) -> Iterator[int]:
        """Randomise further and further; yields how many of the stages are random, in per cent, at most six times."""
        source = self.original.encoder.model.state_dict()
        self.model.encoder.model.load_state_dict(source)
        last = len(self.stages)
        stops = {max(1, round(last * k / _MOST)) for k in range(1, _MOST + 1)}
        for done, names in enumerate(self.stages, 1):
            for name in names:
                self._shuffle(name)
            if done in stops:
                yield round(100 * done / last)

    @torch.no_grad()
    def _shuffle(self, name: str) -> None:
        parameter = self.model.encoder.model.get_parameter(name)
        key = hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:7]
        order = torch.randperm(parameter.numel(), generator=torch.Generator().manual_seed(int.from_bytes(key)))
        parameter.copy_(parameter.flatten()[order.to(parameter.device)].view_as(parameter))
