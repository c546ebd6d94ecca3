"""Trains the bundled model from scratch: contrastive learning on scenes painted on the fly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - PyTorch's own name for it
from lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPModel, CLIPProcessor
from typing_extensions import override

from m2ib_lightning.scenes.captions import describe, training_captions
from m2ib_lightning.scenes.objects import UNSAID
from m2ib_lightning.scenes.painter import paint_scene
from m2ib_lightning.scenes.recipe import Recipe
from m2ib_lightning.scenes.truth import truth_matrix


@dataclass
class TrainingBatch:
    """S scenes with C captions: ``pixel_values`` (S, 3, H, W), ``input_ids`` and mask (C, T), ``truth`` (S, C)."""

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    truth: Tensor


class SceneBatches(Dataset[TrainingBatch]):
    """Batch ``step`` of the recipe, made from (seed, step) alone."""

    def __init__(self, recipe: Recipe, processor: CLIPProcessor) -> None:
        self.recipe = recipe
        self.processor = processor

    def __len__(self) -> int:
        return self.recipe.steps

    def __getitem__(self, step: int) -> TrainingBatch:
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, step])
        scenes = [paint_scene(rng, recipe.difficulty(step)) for _ in range(recipe.scenes_per_batch)]
        captions = [
            caption for scene in scenes for caption in training_captions(rng, scene.objects, recipe.captions_per_scene)
        ]
        truth = truth_matrix([scene.objects for scene in scenes], [caption.phrases for caption in captions])
        encoded = self.processor(
            text=[caption.text for caption in captions],
            images=[scene.image for scene in scenes],
            padding=True,
            return_tensors="pt",
        )
        return TrainingBatch(
            encoded["pixel_values"], encoded["input_ids"], encoded["attention_mask"], torch.from_numpy(truth)
        )


class SceneContrastiveModule(LightningModule):
    """CLIP's contrastive loss with several true captions per scene and several true scenes per caption."""

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, recipe: Recipe) -> None:
        super().__init__()
        self.model = model
        self.processor = processor
        self.recipe = recipe

    @override
    def train_dataloader(self) -> DataLoader[TrainingBatch]:
        return DataLoader(SceneBatches(self.recipe, self.processor), batch_size=None, num_workers=1, prefetch_factor=8)

    @override
    def training_step(self, batch: TrainingBatch, batch_idx: int) -> Tensor:
        outputs = self.model(
            pixel_values=batch.pixel_values, input_ids=batch.input_ids, attention_mask=batch.attention_mask
        )
        loss = multi_positive_loss(outputs.logits_per_image, batch.truth)
        self.log("loss", loss, prog_bar=True)
        return loss

    @override
    def on_train_batch_end(self, outputs: Any, batch: TrainingBatch, batch_idx: int) -> None:
        with torch.no_grad():
            self.model.logit_scale.clamp_(max=math.log(self.recipe.max_logit_scale))

    @override
    def configure_optimizers(self) -> Any:
        recipe = self.recipe
        groups = [
            {"params": [p for p in self.parameters() if p.ndim >= 2], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=recipe.learning_rate, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _rate(self, step: int) -> float:
        """Linear warm-up, then a cosine down to ``final_rate``."""
        recipe = self.recipe
        progress = max(0, step - recipe.warmup) / (recipe.steps - recipe.warmup)
        cosine = 0.5 * (1 + math.cos(math.pi * progress))
        return min(1.0, (step + 1) / recipe.warmup) * (recipe.final_rate + (1 - recipe.final_rate) * cosine)


def multi_positive_loss(logits: Tensor, truth: Tensor) -> Tensor:
    r"""InfoNCE in both directions with several positives.

    Each positive p is contrasted with the false pairs only, :math:`\log(1 + \sum_{n} e^{s_n - s_p})`; the other
    positives stay out of its denominator. The mean is over positives, then over rows that have one.

    Args:
        logits: (S, C) scaled similarities.
        truth: (S, C) bool, which caption is true of which scene.
    """
    false_logits = logits.masked_fill(truth, -1e4)
    positives = truth.float()
    total = logits.new_zeros(())
    for dim in (0, 1):
        per_pair = F.softplus(torch.logsumexp(false_logits, dim, keepdim=True) - logits)
        weight = positives / positives.sum(dim, keepdim=True).clamp(min=1)
        total = total + (per_pair * weight).sum() / truth.any(dim).sum().clamp(min=1)
    return total / 2


@torch.no_grad()
def retrieval(
    model: CLIPModel, processor: CLIPProcessor, *, phrases: int, batches: int = 16, size: int = 64
) -> dict[str, float]:
    """Retrieval in batches of ``size`` fresh scenes; a hit is a caption that is true of the scene.

    Args:
        model: a trained CLIP.
        processor: its processor.
        phrases: how many objects each caption names.
        batches: how many batches, each from its own seed.
        size: scenes in a batch.

    Returns:
        ``image_to_text`` and ``text_to_image``, the share of hits.
    """
    hits = np.zeros(2)
    for batch in range(batches):
        rng = np.random.default_rng([1_000_000, batch])
        scenes = [paint_scene(rng) for _ in range(size)]
        captions = [describe(rng, [obj._replace(size=UNSAID) for obj in scene.objects[:phrases]]) for scene in scenes]
        encoded = processor(
            text=[caption.text for caption in captions],
            images=[scene.image for scene in scenes],
            padding=True,
            return_tensors="pt",
        )
        similarity = cast(Tensor, model(**encoded).logits_per_image).numpy()
        truth = truth_matrix([scene.objects for scene in scenes], [caption.phrases for caption in captions])
        rows = np.arange(size)
        hits += truth[rows, similarity.argmax(1)].sum(), truth[similarity.argmax(0), rows].sum()
    image_to_text, text_to_image = (hits / (batches * size)).round(4).tolist()
    return {"image_to_text": image_to_text, "text_to_image": text_to_image}
