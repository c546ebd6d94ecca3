"""Small random models of every family and pairs for them, for the oracle and the invariants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

from m2ib_lightning.pairs.pair import Pair, PairBatch

VOCABULARY = 60
TEXT_LIMIT = 16
FAMILIES = ("clip", "clip-legacy", "siglip")
"""Families; ``clip-legacy`` has ``eos_token_id`` 2 in its config and pools at the largest id."""

SMALL = {"blocks": 3, "width": 32}
DEEP = {"blocks": 12, "width": 48, "image": 48, "patch": 16}


@dataclass(frozen=True)
class TinyPair:
    """A pair: ``pixels`` (3, H, W), token ``ids`` as the tower reads them, and ``positions`` of the words in them."""

    pixels: torch.Tensor
    ids: list[int]
    positions: list[int]


def make_model(family: str, *, blocks: int = 3, width: int = 32, image: int = 32, patch: int = 8, seed: int = 0) -> Any:
    """Make a model with random weights that are large enough for its gradients not to vanish."""
    text = {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_LIMIT,
    }
    vision = {
        "hidden_size": width + 16,
        "intermediate_size": 2 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": 4,
        "image_size": image,
        "patch_size": patch,
    }
    torch.manual_seed(seed)
    if family == "siglip":
        model = SiglipModel(SiglipConfig(text_config=text | {"projection_size": width + 16}, vision_config=vision))
    else:
        eos = 2 if family == "clip-legacy" else 5
        ids = {"bos_token_id": 1, "eos_token_id": eos}
        model = CLIPModel(CLIPConfig(text_config=text | ids, vision_config=vision, projection_dim=24))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.7 / parameter.shape[-1] ** 0.5)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    return model.eval()


def make_pairs(model: Any, lengths: list[int], seed: int = 1) -> list[TinyPair]:
    """Make pairs whose captions have ``lengths`` words."""
    generator = torch.Generator().manual_seed(seed)
    side = model.config.vision_config.image_size
    pairs = []
    for count in lengths:
        words = torch.randint(6, VOCABULARY - 1, (count,), generator=generator).tolist()
        pixels = torch.randn(3, side, side, generator=generator)
        if model.config.model_type == "siglip":  # end of text and padding have the same id, and the tower reads both
            ids = [*words, *[1] * (TEXT_LIMIT - count)]
            pairs.append(TinyPair(pixels, ids, list(range(count))))
        else:
            pairs.append(TinyPair(pixels, [1, *words, end_of_text(model)], list(range(1, count + 1))))
    return pairs


def end_of_text(model: Any) -> int:
    """Return the id that ends captions and pads them, as in CLIP's own tokenizer."""
    eos: int = model.config.text_config.eos_token_id
    return VOCABULARY - 1 if eos == 2 else eos


def make_batch(model: Any, pairs: list[TinyPair], names: list[str] | None = None) -> PairBatch:
    """Make a batch, padded to the longest caption."""
    longest = max(len(pair.ids) for pair in pairs)
    padded = [pair.ids + [end_of_text(model)] * (longest - len(pair.ids)) for pair in pairs]
    described = [
        Pair(
            key=f"test:{name}",
            id=name,
            image="",
            caption="x" * len(pair.positions),
            tokens=["x"] * len(pair.positions),
            token_offsets=[(k, k + 1) for k in range(len(pair.positions))],
            token_positions=pair.positions,
            image_size=(64, 48),
            crop=(8, 0, 56, 48),
        )
        for name, pair in zip(names or [str(k) for k in range(len(pairs))], pairs, strict=True)
    ]
    text = {"input_ids": torch.tensor(padded)}
    return PairBatch(described, [], {"pixel_values": torch.stack([pair.pixels for pair in pairs])}, text)
