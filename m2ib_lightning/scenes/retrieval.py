"""Retrieval with the bundled model: captions for scenes, and scenes for captions."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from m2ib_lightning.scenes.objects import UNSAID
from m2ib_lightning.scenes.painter import paint_scene
from m2ib_lightning.scenes.scene_captions import describe
from m2ib_lightning.scenes.truth_matrix import truth_matrix


@torch.no_grad()
def retrieval(
    model: CLIPModel, processor: CLIPProcessor, *, phrases: int, batches: int = 16, size: int = 64
) -> dict[str, float]:
    """Measure retrieval in batches of ``size`` fresh scenes; a hit is a caption that is true of the scene.

    Args:
        model: a trained CLIP.
        processor: the processor of the model.
        phrases: number of objects that each caption names.
        batches: number of batches, each from its own seed.
        size: number of scenes in a batch.

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
