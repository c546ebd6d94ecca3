"""A Hugging Face folder of a small CLIP with random weights, and files of images: what users point the command at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from m2ib_lightning.scenes.tokenizer import BOS_ID, EOS_ID, PAD_ID, build_tokenizer


def save_clip_folder(
    folder: Path,
    *,
    image: int = 32,
    patch: int = 8,
    width: int = 32,
    text_width: int = 24,
    blocks: int = 3,
    heads: int = 4,
    projection: int = 16,
    max_tokens: int = 77,
) -> Path:
    """Save model, tokenizer and image processor as ``save_pretrained`` does."""
    tokenizer = build_tokenizer()
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "max_position_embeddings": max_tokens,
        "bos_token_id": BOS_ID,
        "eos_token_id": EOS_ID,
        "pad_token_id": PAD_ID,
    }
    vision: dict[str, Any] = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "image_size": image,
        "patch_size": patch,
    }
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=projection)).save_pretrained(folder)
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": image}, crop_size={"height": image, "width": image})
    CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def save_photograph(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Something like a photograph: smooth colours, edges, a little noise; the file's ending is its format."""
    rng = np.random.default_rng([seed, width, height])
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse, np.int16) + rng.normal(0, 8, (height, width, 1)).astype(np.int16)
    noisy[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path
