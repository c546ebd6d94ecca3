"""Small models and pairs, made here: no test needs a network."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.pairs import Pair, PairBatch

VOCABULARY = 60
TEXT_LIMIT = 16


def make_clip(
    *, blocks: int = 3, width: int = 32, image: int = 32, patch: int = 8, eos_token_id: int = 5, seed: int = 0
) -> CLIPModel:
    """A CLIP with random weights, large enough that no gradient vanishes.

    With ``eos_token_id=2`` (legacy) it pools at the largest id, which captions here end with.
    """
    config = CLIPConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "intermediate_size": 2 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": 4,
            "max_position_embeddings": TEXT_LIMIT,
            "bos_token_id": 1,
            "eos_token_id": eos_token_id,
        },
        vision_config={
            "hidden_size": width + 16,
            "intermediate_size": 2 * width,
            "num_hidden_layers": blocks,
            "num_attention_heads": 4,
            "image_size": image,
            "patch_size": patch,
        },
        projection_dim=24,
    )
    torch.manual_seed(seed)
    model = CLIPModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.7 / parameter.shape[-1] ** 0.5)
            elif "bias" in name:
                parameter.normal_(0, 0.1)
    return model


def end_of_text(model: CLIPModel) -> int:
    """The id that ends captions for this model."""
    eos = model.config.text_config.eos_token_id
    return VOCABULARY - 1 if eos == 2 else eos


def make_pairs(model: CLIPModel, lengths: list[int], seed: int = 1) -> list[tuple[torch.Tensor, list[int]]]:
    """(pixel_values (3, H, W), input_ids) for captions of so many words."""
    generator = torch.Generator().manual_seed(seed)
    side = model.config.vision_config.image_size
    pairs = []
    for words in lengths:
        ids = torch.randint(6, VOCABULARY - 1, (words,), generator=generator).tolist()
        pairs.append((torch.randn(3, side, side, generator=generator), [1, *ids, end_of_text(model)]))
    return pairs


def make_batch(
    model: CLIPModel, pairs: list[tuple[torch.Tensor, list[int]]], names: list[str] | None = None
) -> PairBatch:
    """A batch, padded with the end-of-text id as CLIP's own tokenizer does."""
    longest = max(len(ids) for _, ids in pairs)
    padded = [ids + [end_of_text(model)] * (longest - len(ids)) for _, ids in pairs]
    described = [
        Pair(
            key=f"test:{name}",
            id=name,
            image="",
            caption="x" * (len(ids) - 2),
            tokens=["x"] * (len(ids) - 2),
            token_offsets=[(k, k + 1) for k in range(len(ids) - 2)],
            token_positions=list(range(1, len(ids) - 1)),
            image_size=(64, 48),
            crop=(8, 0, 56, 48),
        )
        for name, (_, ids) in zip(names or [str(k) for k in range(len(pairs))], pairs, strict=True)
    ]
    text = {"input_ids": torch.tensor(padded)}
    return PairBatch(described, [], {"pixel_values": torch.stack([pixels for pixels, _ in pairs])}, text)


def relative_difference(a: Any, b: Any) -> float:
    """max|a - b| / max|b|, the measure of the design."""
    a, b = (torch.as_tensor(value).detach().double() for value in (a, b))
    return float((a - b).abs().max() / b.abs().max())


def assert_same_result(a: Attribution, b: Attribution, tolerance: float) -> None:
    """Two results of one pair agree."""
    assert a.error is None
    assert b.error is None
    assert a.pair.key == b.pair.key
    for tower in ("image", "text"):
        for name in ("saliency", "loss", "information", "similarity"):
            difference = relative_difference(getattr(getattr(a, tower), name), getattr(getattr(b, tower), name))
            assert difference < tolerance, (tower, name, difference)


@pytest.fixture
def clip_factory() -> Callable[..., CLIPModel]:
    return make_clip
