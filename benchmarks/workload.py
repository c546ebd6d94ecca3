"""The workload of the benchmarks: CLIP models with random weights, random pictures, a caption of 12 tokens."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from m2ib_lightning import BottleneckSettings
from m2ib_lightning.m2ib.explainer import Explainer
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.models.load import wrap_model
from m2ib_lightning.pairs.pair import PairBatch, RawPair
from m2ib_lightning.results.attribution import Attribution

SHAPES: dict[str, dict[str, dict[str, int]]] = {
    "ViT-B/32": {"vision": {"patch_size": 32}, "text": {}},
    "ViT-B/16": {"vision": {"patch_size": 16}, "text": {}},
    "ViT-L/14": {
        "vision": {"patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        | {"num_attention_heads": 16},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    },
}
SHAPES["ViT-B/32 at 768 px"] = {"vision": {"patch_size": 32, "image_size": 768}, "text": {}}  # 577 tokens
CAPTION = "the small red circle left of a large blue star"
"""10 words, each a token of the bundled tokenizer; 12 with the special ones."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def make_model(shape: str, device: torch.device) -> LoadedModel:
    """Return a model of that shape with random weights and the bundled model's tokenizer."""
    bundled = load_model("scenes")
    tokenizer = bundled.processor.tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    parts = SHAPES[shape]
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config=parts["vision"],
        text_config=parts["text"] | ids,
        projection_dim=768 if "L" in shape else 512,
    )
    side = config.vision_config.image_size
    image_processor = type(bundled.processor.image_processor)(size={"shortest_edge": side}, crop_size=side)
    return wrap_model(CLIPModel(config).eval().to(device), CLIPProcessor(image_processor, tokenizer))


def make_pairs(model: LoadedModel, count: int) -> list[RawPair]:
    """Return that many random pictures, each with the caption."""
    side = model.encoder.model.config.vision_config.image_size
    rng = np.random.default_rng(0)
    return [
        RawPair(f"random:{k}", Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)), "", CAPTION)
        for k in range(count)
    ]


class Package:
    """This package without a Trainer: explains one batch in one precision.

    Args:
        model: the model to explain.
        settings: settings with resolved layers.
        device: device of the model.
        compile: whether to compile the loop.
    """

    def __init__(
        self, model: LoadedModel, settings: BottleneckSettings, device: torch.device, *, compile: bool = False
    ) -> None:
        self.model = model
        self.device = device
        self.explainer = Explainer(model.encoder, settings, compile=compile)
        self.explainer.bottlenecks.to(device)

    def batch(self, pairs: list[RawPair]) -> PairBatch:
        """Return the prepared pairs on the device."""
        preparer = self.model.preparer
        return preparer.collate([preparer.prepare(pair, keep_picture=False) for pair in pairs]).to(self.device)

    def __call__(self, batch: PairBatch, dtype: torch.dtype) -> list[Attribution]:
        """Explain the batch under autocast to that type."""
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.explainer(batch, self.explainer.optimizer())
