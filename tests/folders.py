"""Inputs of the command: Hugging Face folders of small models with random weights, and image files."""

from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sentencepiece import SentencePieceTrainer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
    SiglipProcessor,
    SiglipTokenizer,
)

from m2ib_lightning.pairs.images import ImageLike, read_image
from m2ib_lightning.scenes.tokenizer import BOS, BOS_ID, EOS, EOS_ID, PAD_ID, build_tokenizer
from m2ib_lightning.scenes.vocabulary import WORDS


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
    legacy: bool = False,
) -> Path:
    """Save model, tokenizer and image processor with ``save_pretrained``.

    ``legacy`` makes a folder like the first CLIP models: the end of text has the largest id, though the config says 2,
    and is the padding too.
    """
    tokenizer = word_tokenizer(["<unk>", BOS], EOS, f"{BOS} $A {EOS}", max_tokens) if legacy else build_tokenizer()
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": text_width,
        "intermediate_size": 4 * text_width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "max_position_embeddings": max_tokens,
        "bos_token_id": BOS_ID,
        "eos_token_id": 2 if legacy else EOS_ID,
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


def save_siglip_folder(folder: Path, *, sentencepiece: bool = False, max_tokens: int = 12) -> Path:
    """Save a SigLIP model whose end of text is also the padding, with a SentencePiece tokenizer or a fast one."""
    if sentencepiece:
        tokenizer: Any = sentencepiece_tokenizer(folder, max_tokens)
    else:
        tokenizer = word_tokenizer(["<unk>"], "</s>", "$A </s>", max_tokens)
    shared = {"intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    text = {"hidden_size": 32, "vocab_size": len(tokenizer), "max_position_embeddings": max_tokens}
    vision = {"hidden_size": 48, "image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = SiglipConfig(text_config=text | shared | {"projection_size": 48}, vision_config=vision | shared)
    SiglipModel(config).save_pretrained(folder)
    image_processor = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor=image_processor, tokenizer=tokenizer).save_pretrained(folder)
    return folder


def word_tokenizer(first: list[str], last: str, template: str, max_tokens: int) -> PreTrainedTokenizerFast:
    """Make a fast tokenizer with a token per word; ``last`` ends the text, pads it, and has the largest id."""
    vocabulary = {word: index for index, word in enumerate([*first, *WORDS, last])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    specials = [(name, vocabulary[name]) for name in template.split() if name != "$A"]
    tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=specials)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token=last, pad_token=last, model_max_length=max_tokens
    )


def sentencepiece_tokenizer(folder: Path, max_tokens: int) -> SiglipTokenizer:
    """Train a tokenizer of SigLIP's own class, which lower-cases and drops punctuation."""
    rng = random.Random(0)
    words = [*WORDS, "naïve", "日本語", "😀"]
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(" ".join(rng.choices(words, k=8)) for _ in range(2000)),
        model_writer=model,
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=-1,
        bos_id=-1,
        eos_id=1,
        unk_id=2,
        minloglevel=2,
    )
    folder.mkdir(exist_ok=True)
    (folder / "spiece.model").write_bytes(model.getvalue())
    return SiglipTokenizer(str(folder / "spiece.model"), model_max_length=max_tokens)


def open_image(image: ImageLike) -> Image.Image:
    """Return the picture as a run reads it."""
    return read_image(image).picture


def save_photograph(path: Path, width: int, height: int, seed: int = 0) -> Path:
    """Save a picture like a photograph (smooth colours, edges, a little noise) in the format of the ending."""
    rng = np.random.default_rng([seed, width, height])
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    noisy = np.asarray(coarse, np.int16) + rng.normal(0, 8, (height, width, 1)).astype(np.int16)
    noisy[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(0, 256, 3)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path
