"""Validation of a fine-tuning: recall, information, maps, and zero-shot accuracy.

Legend: B pairs of a batch, E embedding size.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from m2ib_lightning.config import MODALITIES, FinetuneConfig, Modality
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.finetuning.batch_loss import unit
from m2ib_lightning.finetuning.maps import SHOWN, OptimisedMaps, map_metrics, readout_maps
from m2ib_lightning.finetuning.network import BottleneckedModel, TowerOutput
from m2ib_lightning.finetuning.positives import caption_signatures, picture_signatures, positives
from m2ib_lightning.finetuning.ranks import Ranks
from m2ib_lightning.finetuning.recall import recalls
from m2ib_lightning.finetuning.zero_shot import zero_shot_accuracy
from m2ib_lightning.m2ib.statistics import Statistics
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import Pair, PairBatch
from m2ib_lightning.results.attribution import Attribution


class Validation:
    """Collects the batches of a validation epoch, then computes its metrics.

    Every rank sees all pairs.

    Args:
        network: the model and its bottlenecks.
        model: the same model, as it was loaded.
        options: ``finetune.*``.
        statistics: priors of M2IB's maps.
        seed: seed of the noise of M2IB's maps.
    """

    def __init__(
        self,
        network: BottleneckedModel,
        model: LoadedModel,
        options: FinetuneConfig,
        statistics: Statistics,
        seed: int,
    ) -> None:
        self.network = network
        self.model = model
        self.options = options
        self._optimised_maps = OptimisedMaps(model, statistics, seed)
        self._clear()

    def _clear(self) -> None:
        self._pairs: list[Pair] = []
        self._embeddings: dict[Modality, list[Tensor]] = {m: [] for m in MODALITIES}
        self._information: dict[Modality, list[Tensor]] = {m: [] for m in MODALITIES}
        self._maps: list[Attribution] = []
        self._labels: list[str | None] = []
        self._labelled_images: list[Tensor] = []

    def add(self, batch: PairBatch, outputs: Mapping[Modality, TowerOutput], ranks: Ranks) -> None:
        """Add a batch and the network's outputs for it."""
        self._maps += self._maps_of(batch, outputs, ranks)
        labels = [None if pair.truth is None else pair.truth.label for pair in batch.pairs]
        if ranks.all_agree(any(label is not None for label in labels)):
            self._labels += labels
            self._labelled_images.append(self._clean_images(batch, outputs))
        self._pairs += batch.pairs
        for m, output in outputs.items():
            self._embeddings[m].append(unit(output.embedding))
            self._information[m].append(output.information)

    def finish(self, ranks: Ranks) -> tuple[dict[str, float], list[Attribution]]:
        """Return the metrics of the epoch and its maps, and start a new epoch."""
        try:
            return self._metrics(ranks), self._maps
        finally:
            self._clear()

    def _metrics(self, ranks: Ranks) -> dict[str, float]:
        image, text = (torch.cat(self._embeddings[m]) for m in MODALITIES)
        pictures = picture_signatures(self._pairs).to(image.device)
        captions = caption_signatures(self._pairs).to(image.device)
        metrics = recalls(
            image,
            text,
            lambda rows: positives(pictures[rows], captions),
            lambda rows: positives(pictures, captions[rows]).T,
        )
        for m in MODALITIES:
            metrics[f"{m}_information"] = float(torch.cat(self._information[m]).mean())
        return metrics | map_metrics(self._maps) | self._zero_shot(ranks)

    def _maps_of(self, batch: PairBatch, outputs: Mapping[Modality, TowerOutput], ranks: Ranks) -> list[Attribution]:
        """Return the readout's maps; without a readout M2IB's maps, if this process has the full, merged weights."""
        done = len(self._maps)
        places = batch.first(max(0, self.options.maps - done))
        if self.network.kind == "readout":
            maps = readout_maps(self.network, batch, outputs) if places else []
            return [maps[place] for place in places]
        if ranks.sharded or self.options.train == "lora":
            return []
        truths = [pair.truth for pair in batch.pairs]
        has_score = [truth is not None and (truth.mask is not None or truth.content is not None) for truth in truths]
        wanted = [place for number, place in enumerate(places, done) if number < SHOWN or has_score[place]]
        return self._optimised_maps(batch, wanted)

    def _clean_images(self, batch: PairBatch, outputs: Mapping[Modality, TowerOutput]) -> Tensor:
        """Return the embeddings (B, E) of the pictures without a bottleneck."""
        if self.network.kind != "channel" or self.network.wants_clean:
            return outputs["image"].clean
        return self.network.untouched("image", batch.inputs["image"])

    def _zero_shot(self, ranks: Ranks) -> dict[str, float]:
        """Return the zero-shot accuracy on the pictures whose class is known."""
        classes = {label for label in self._labels if label is not None}
        if not ranks.all_agree(len(classes) > 1):
            return {}
        images = torch.cat(self._labelled_images)
        accuracy = zero_shot_accuracy(
            images, self._labels, self.options.prompt, lambda captions: self._embed(captions, images.device)
        )
        return {} if accuracy is None else {"zero_shot_accuracy": accuracy}

    def _embed(self, captions: list[str], device: torch.device) -> Tensor:
        preparer = self.model.preparer
        try:
            inputs = preparer.pad([preparer.read_caption(caption)[0] for caption in captions])
        except PairError as error:
            raise M2IBError(f"zero-shot accuracy: a prompt among {captions[:5]} can't be read: {error}") from None
        return self.network.untouched("text", {name: value.to(device) for name, value in inputs.items()})
