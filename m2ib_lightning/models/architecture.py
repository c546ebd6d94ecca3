"""The untrained bundled model: its architecture and initial weights. ``configs/scenes-model.yaml`` trains it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer

from m2ib_lightning.m2ib.seeding import seeded
from m2ib_lightning.scenes.painter import CANVAS, GRID
from m2ib_lightning.scenes.tokenizer import BOS_ID, EOS_ID, MAX_TOKENS, PAD_ID, build_tokenizer


@dataclass(frozen=True)
class Architecture:
    """Widths and depths of the two towers.

    Attributes:
        vision_width: width of the image tower.
        vision_blocks: number of blocks of the image tower.
        text_width: width of the text tower.
        text_blocks: number of blocks of the text tower.
        heads: number of attention heads of each block.
        projection: width of the joint embedding.
    """

    vision_width: int = 128
    vision_blocks: int = 4
    text_width: int = 64
    text_blocks: int = 3
    heads: int = 4
    projection: int = 96


def build_processor() -> CLIPProcessor:
    """Return the processor of the bundled model: images of 64 x 64 pixels, and tokens of the scenes' vocabulary."""
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": CANVAS},
        crop_size={"height": CANVAS, "width": CANVAS},
        image_mean=[0.5] * 3,
        image_std=[0.25] * 3,
    )
    return CLIPProcessor(image_processor=image_processor, tokenizer=build_tokenizer())


def build_model(architecture: Architecture, tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPModel:
    """Return a small CLIP with random weights, drawn from the seed."""
    shared = {"num_attention_heads": architecture.heads, "hidden_act": "gelu"}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": architecture.text_width,
        "intermediate_size": 2 * architecture.text_width,
        "num_hidden_layers": architecture.text_blocks,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }
    vision = {
        "hidden_size": architecture.vision_width,
        "intermediate_size": 2 * architecture.vision_width,
        "num_hidden_layers": architecture.vision_blocks,
        "image_size": CANVAS,
        "patch_size": GRID,
    }
    config = CLIPConfig(
        text_config=text | shared, vision_config=vision | shared, projection_dim=architecture.projection
    )
    with seeded(seed):
        model = CLIPModel(config)
        _initialise(model)
    return model


@torch.no_grad()
def _initialise(model: CLIPModel) -> None:
    """Set Xavier weights and a 2-D sine-cosine position table; CLIP's own initialisation trains slowly at this size."""
    vision, text = model.vision_model, model.text_model
    table = vision.embeddings.position_embedding.weight
    table[0] = 0
    table[1:] = 0.3 * _sine_cosine_table(CANVAS // GRID, table.shape[1])
    torch.nn.init.normal_(text.embeddings.token_embedding.weight, std=0.5)
    torch.nn.init.normal_(text.embeddings.position_embedding.weight, std=0.25)
    for tower in (vision, text):
        for name, module in tower.encoder.named_modules():
            if isinstance(module, torch.nn.Linear) and "layers" in name:
                torch.nn.init.xavier_uniform_(module.weight)


def _sine_cosine_table(side: int, width: int) -> torch.Tensor:
    """Position codes (side * side, width): the first half encodes the row, the second the column."""
    quarter = width // 4
    frequency = 30.0 ** -(torch.arange(quarter) / quarter)
    angle = torch.arange(side)[:, None] * frequency[None]  # (side, quarter)
    code = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, width / 2)
    rows, columns = code[:, None].expand(side, side, -1), code[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)
