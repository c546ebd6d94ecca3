"""An image-text model with a bottleneck in each tower.

Legend: B pairs, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.families.family import Inputs
from m2ib_lightning.encoder.towers import Encoder, Tower
from m2ib_lightning.finetuning.masks import MASKS, TrainedBottleneck
from m2ib_lightning.finetuning.positives import owners
from m2ib_lightning.m2ib.objective import mean_information
from m2ib_lightning.m2ib.seeding import seeded
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics

Noise = Callable[[Modality, Tensor], Tensor]
"""The noise of a batch: the tower and (B, T, D) hidden states to (B, T, D)."""


@dataclass(frozen=True)
class TowerOutput:
    """One tower's part of a pass.

    Attributes:
        embedding: (B, E), through the bottleneck.
        information: (B,) mean nats per token and channel; 0 without a bottleneck.
        saliency: (B, T) nats per token; None without a bottleneck.
        clean: (B, E), past the bottleneck; that through it where there is none, or none was asked for.
    """

    embedding: Tensor
    information: Tensor
    saliency: Tensor | None
    clean: Tensor


@dataclass(frozen=True)
class _Cut:
    """A batch at the cut, and what the blocks after it need."""

    z: Tensor
    valid: Tensor
    pooled: Tensor | None
    arguments: dict[str, Any]


class BottleneckedModel(nn.Module):
    """The model and the bottlenecks; all of their weights are parameters of this module.

    Args:
        encoder: the model.
        settings: layers resolved; layer, sigma and initial alpha count.
        mask: ``channel`` or ``readout``; None for no bottleneck.
        statistics: priors for the towers with ``prior="data"``.
        hidden: inner width of the readout's head.
        seed: keys the head's first weights.
        clean: whether the clean embeddings are wanted where the mask does not need them.
    """

    def __init__(
        self,
        encoder: Encoder,
        settings: BottleneckSettings,
        mask: str | None,
        statistics: Statistics | None = None,
        hidden: int = 128,
        seed: int = 0,
        *,
        clean: bool = False,
    ) -> None:
        super().__init__()
        self.wants_clean = clean
        self.encoder = encoder
        self.model: nn.Module = encoder.model
        self.settings = settings
        self.kind = mask
        self.hidden = hidden
        self.bottlenecks = nn.ModuleDict()
        with seeded(seed):
            for modality in MODALITIES if mask is not None else ():
                self.bottlenecks[modality] = self._bottleneck(modality, statistics or Statistics(), hidden)

    def _bottleneck(self, modality: Modality, statistics: Statistics, hidden: int) -> TrainedBottleneck:
        tower, settings = self.encoder.towers[modality], self.settings.tower(modality)
        prior = statistics.get(modality, self._layer(modality)) if settings.prior == "data" else None
        mean, std = (torch.zeros(tower.width), torch.ones(tower.width)) if prior is None else (prior.mean, prior.std)
        alpha = self.settings.initial_alpha
        if self.kind == "channel":
            mask = MASKS["channel"](tower.width, alpha)
        else:
            features = 1 if self._deep(modality) == self._layer(modality) else 2
            mask = MASKS["readout"]([tower.width] * features, tower.embedding_size, hidden, alpha)
        return TrainedBottleneck(mask, settings.sigma, mean, std)

    def _layer(self, modality: Modality) -> int:
        layer = self.settings.tower(modality).layer
        assert layer is not None, "resolve the settings first"
        return layer

    def _deep(self, modality: Modality) -> int:
        """The block whose output the readout reads beside the cut: the last whose tokens all count."""
        return max(self._layer(modality), len(self.encoder.towers[modality].blocks) - 2)

    def forward(self, inputs: dict[Modality, Inputs], noise: Noise | None = None) -> dict[Modality, TowerOutput]:
        """Both towers, each through its bottleneck.

        The masks read hidden states and the other tower's embedding of the clean pass, and send no gradient there.
        There may be more captions than pictures: other captions of each, as ``owners`` has them.
        """
        cuts = {m: self._prefix(self.encoder.towers[m], inputs[m], self._layer(m)) for m in MODALITIES}
        if self.kind is None:
            return {m: self._plain(m, cut) for m, cut in cuts.items()}
        if self.kind == "channel" and not self.wants_clean:  # it reads nothing
            return {m: self._through(m, cut, [], cut.z.new_zeros(1, 1), noise) for m, cut in cuts.items()}
        with torch.no_grad():
            clean = {m: self._rest(m, cut.z, cut, self._deep(m)) for m, cut in cuts.items()}
        found: dict[Modality, TowerOutput] = {}
        pictures, captions = (len(cuts[m].z) for m in MODALITIES)
        owner = owners(pictures, captions).to(clean["image"][0].device)
        others = {"image": clean["text"][0][:pictures], "text": clean["image"][0][owner]}
        for m, cut in cuts.items():
            other = others[m]
            deep = [] if self._deep(m) == self._layer(m) else [clean[m][1]]
            through = self._through(m, cut, [cut.z.detach(), *deep], other, noise)
            found[m] = TowerOutput(through.embedding, through.information, through.saliency, clean[m][0])
        return found

    def untouched(self, modality: Modality, inputs: Inputs) -> Tensor:
        """(B, E): one tower's embedding without a bottleneck, as plain transformers has it of the saved folder."""
        cut = self._prefix(self.encoder.towers[modality], inputs, self._layer(modality))
        return self._plain(modality, cut).embedding

    def _plain(self, modality: Modality, cut: _Cut) -> TowerOutput:
        embedding, _ = self._rest(modality, cut.z, cut, self._layer(modality))
        return TowerOutput(embedding, embedding.new_zeros(len(embedding)), None, embedding)

    def _through(
        self, modality: Modality, cut: _Cut, features: list[Tensor], context: Tensor, noise: Noise | None
    ) -> TowerOutput:
        drawn = None if noise is None else noise(modality, cut.z)
        passed, information = self.bottlenecks[modality](cut.z, features, context, drawn)
        embedding, _ = self._rest(modality, passed, cut, self._layer(modality))
        return TowerOutput(embedding, mean_information(information, cut.valid), information.sum(-1), embedding)

    def _prefix(self, tower: Tower, inputs: Inputs, layer: int) -> _Cut:
        """As ``Tower.prefix``, with gradients."""
        spec = tower.spec
        z = spec.embed(tower.model, inputs)
        valid = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        if spec.lengths is not None:
            positions = torch.arange(z.shape[1], device=z.device)
            valid = positions[None] < spec.lengths(tower.model, inputs)[:, None]
            z = z.masked_fill(~valid[..., None], 0)
        arguments = spec.block_arguments(tower.model, z)
        for block in tower.blocks[: layer + 1]:
            z = block(z, **arguments)
        pooled = None if spec.pooled is None else spec.pooled(tower.model, inputs)
        return _Cut(z, valid, pooled, arguments)

    def _rest(self, modality: Modality, z: Tensor, cut: _Cut, deep: int) -> tuple[Tensor, Tensor]:
        """The embedding (B, E), and the output of block ``deep`` on the way."""
        tower, layer = self.encoder.towers[modality], self._layer(modality)
        kept = z
        for number, block in enumerate(tower.blocks[layer + 1 :], layer + 1):
            z = block(z, **cut.arguments)
            kept = z if number == deep else kept
        pooled = z if cut.pooled is None else z[torch.arange(len(z), device=z.device), cut.pooled]
        return tower.spec.head(tower.model, pooled), kept
