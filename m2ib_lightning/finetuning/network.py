"""An image-text model with a bottleneck in each tower.

Legend: B pairs, C captions, T tokens, D width, E embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from m2ib_lightning.config import MODALITIES, Modality
from m2ib_lightning.encoder.families.family import Inputs
from m2ib_lightning.encoder.layout import Hidden
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.finetuning.masks import MASKS, TrainedBottleneck
from m2ib_lightning.finetuning.positives import owners
from m2ib_lightning.m2ib.objective import mean_information
from m2ib_lightning.m2ib.seeding import seeded
from m2ib_lightning.m2ib.settings import BottleneckSettings
from m2ib_lightning.m2ib.statistics import Statistics

Noise = Callable[[Modality, Tensor], Tensor]
"""Function from a tower and its hidden states (B, T, D) to the noise of a batch (B, T, D)."""


@dataclass(frozen=True)
class TowerOutput:
    """The output of one tower in a forward pass.

    Attributes:
        embedding: (B, E) embeddings through the bottleneck.
        information: (B,) mean nats per token and channel; 0 without a bottleneck.
        saliency: (B, T) nats per token; None without a bottleneck.
        clean: (B, E) embeddings without the bottleneck; the same as ``embedding`` if they were not computed.
    """

    embedding: Tensor
    information: Tensor
    saliency: Tensor | None
    clean: Tensor


class BottleneckedModel(nn.Module):
    """An image-text model with its bottlenecks; their weights are the parameters of this module.

    Args:
        encoder: the model.
        settings: settings with resolved layers; layer, sigma and initial alpha are read.
        mask: ``channel`` or ``readout``; None for no bottleneck.
        statistics: priors for the towers with ``prior="data"``.
        hidden: inner width of the readout's head.
        seed: seed of the first weights of the head.
        clean: whether to compute clean embeddings even if the mask does not need them.
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
            features = 1 if self._deep_layer(modality) == self._layer(modality) else 2
            mask = MASKS["readout"]([tower.width] * features, tower.embedding_size, hidden, alpha)
        return TrainedBottleneck(mask, settings.sigma, mean, std)

    def _layer(self, modality: Modality) -> int:
        layer = self.settings.tower(modality).layer
        assert layer is not None, "resolve the settings first"
        return layer

    def _deep_layer(self, modality: Modality) -> int:
        """Return the index of the block that the readout reads besides the cut: the last one whose tokens all count."""
        return max(self._layer(modality), len(self.encoder.towers[modality].blocks) - 2)

    def forward(self, inputs: dict[Modality, Inputs], noise: Noise | None = None) -> dict[Modality, TowerOutput]:
        """Run both towers, each through its bottleneck.

        The masks read hidden states and the other tower's embedding from the clean pass, and send no gradient there.
        There may be more captions than pictures: the hard negatives of each, in the order of ``owners``.
        """
        cuts = {m: self._cut(m, inputs[m]) for m in MODALITIES}
        if self.kind is None:
            return {m: self._without_bottleneck(m, cut) for m, cut in cuts.items()}
        if self.kind == "channel" and not self.wants_clean:  # this mask reads nothing
            return {m: self._through_bottleneck(m, cut, [], cut.z.new_zeros(1, 1), noise) for m, cut in cuts.items()}
        deep, clean = self._clean_pass(cuts)
        pictures, captions = (len(cuts[m].z) for m in MODALITIES)
        owner = owners(pictures, captions).to(clean["image"].device)
        context = {"image": clean["text"][:pictures], "text": clean["image"][owner]}
        outputs: dict[Modality, TowerOutput] = {}
        for m, cut in cuts.items():
            features = [cut.z.detach()] if self._deep_layer(m) == self._layer(m) else [cut.z.detach(), deep[m]]
            through = self._through_bottleneck(m, cut, features, context[m], noise)
            outputs[m] = TowerOutput(through.embedding, through.information, through.saliency, clean[m])
        return outputs

    def untouched(self, modality: Modality, inputs: Inputs) -> Tensor:
        """Return the embeddings (B, E) of one tower without a bottleneck, as the saved folder gives them."""
        return self._without_bottleneck(modality, self._cut(modality, inputs)).embedding

    def _cut(self, modality: Modality, inputs: Inputs) -> Hidden:
        return self.encoder.towers[modality].prefix_with_gradients(inputs, self._layer(modality))

    @torch.no_grad()
    def _clean_pass(self, cuts: dict[Modality, Hidden]) -> tuple[dict[Modality, Tensor], dict[Modality, Tensor]]:
        """Return the output (B, T, D) of the block that the readout reads, and the clean embeddings (B, E)."""
        deep, clean = {}, {}
        for m, cut in cuts.items():
            tower, last = self.encoder.towers[m], self._deep_layer(m)
            deep[m] = tower.advance(cut.z, self._layer(m), last, cut.layout)
            clean[m] = tower.suffix(deep[m], last, cut.layout)
        return deep, clean

    def _without_bottleneck(self, modality: Modality, cut: Hidden) -> TowerOutput:
        embedding = self.encoder.towers[modality].suffix(cut.z, self._layer(modality), cut.layout)
        return TowerOutput(embedding, embedding.new_zeros(len(embedding)), None, embedding)

    def _through_bottleneck(
        self, modality: Modality, cut: Hidden, features: list[Tensor], context: Tensor, noise: Noise | None
    ) -> TowerOutput:
        drawn = None if noise is None else noise(modality, cut.z)
        gated, information = self.bottlenecks[modality](cut.z, features, context, drawn)
        embedding = self.encoder.towers[modality].suffix(gated, self._layer(modality), cut.layout)
        return TowerOutput(embedding, mean_information(information, cut.valid), information.sum(-1), embedding)
