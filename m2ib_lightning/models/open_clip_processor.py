"""The processor of an OpenCLIP model: its tokenizer and its image transform, as the package reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPImageProcessorPil

from m2ib_lightning.encoder.families.open_clip_text import text_of
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.models.open_clip_source import CONFIG_FILE, WEIGHTS_FILE
from m2ib_lightning.models.open_clip_tokenizer import OpenClipTokenizer, check_ids, cleaning, fast_tokenizer
from m2ib_lightning.pairs.cleaning import Clean

_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""OpenCLIP's defaults, which are those of OpenAI's CLIP."""


@dataclass(frozen=True)
class OpenClipProcessor:
    """The processor of an OpenCLIP model.

    Attributes:
        tokenizer: tokenizer of transformers with the ids of OpenCLIP's.
        image_processor: image processor of transformers with the pixels of OpenCLIP's transform.
        clean: OpenCLIP's cleaning of captions.
        context_length: largest number of tokens of a caption.
        config: what ``open_clip_config.json`` holds; empty if it is not known.
    """

    tokenizer: Any
    image_processor: Any
    clean: Clean
    context_length: int
    config: Mapping[str, Any] = field(default_factory=dict)

    def save_model(self, model: Any, folder: Path) -> None:
        """Write a model with its configuration and its tokenizer to a folder that ``local-dir:`` loads again.

        Raises:
            M2IBError: if the configuration is not known, because the model was not loaded by name.
        """
        if not self.config:
            raise M2IBError(
                "the configuration of this OpenCLIP model is not known: load it by name (open_clip:...) to save it"
            )
        (folder / CONFIG_FILE).write_text(json.dumps(self.config, indent=2) + "\n", encoding="utf-8")
        weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
        save_file(weights, folder / WEIGHTS_FILE)
        if not isinstance(self.tokenizer, OpenClipTokenizer):
            self.tokenizer.save_pretrained(folder)
        if hasattr(text_of(model), "config"):
            text_of(model).config.save_pretrained(folder)


def make_processor(model: Any, tokenizer: Any, config: Mapping[str, Any] | None = None) -> OpenClipProcessor:
    """Return the processor of an OpenCLIP model.

    Args:
        model: the model.
        tokenizer: OpenCLIP's tokenizer (``open_clip.get_tokenizer``).
        config: what ``open_clip_config.json`` holds, if it is known.

    Raises:
        M2IBError: if the tokenizer or the way of resizing is not supported, or the tokenizer does not fit the model.
    """
    fast, clean = fast_tokenizer(tokenizer), cleaning(tokenizer)
    check_ids(fast, tokenizer, clean)
    _check_fit(model, fast)
    image_processor = _image_processor(getattr(model.visual, "preprocess_cfg", None) or {}, model.visual.image_size)
    return OpenClipProcessor(fast, image_processor, clean, tokenizer.context_length, config or {})


def _check_fit(model: Any, tokenizer: Any) -> None:
    """Check that the text tower has the tokenizer's tokens, and masks what the tokenizer pads with."""
    text, largest = text_of(model), max(tokenizer("a photo of a dog")["input_ids"])
    if largest >= text.vocab_size > 0:
        raise M2IBError(
            f"the tokenizer gives the id {largest}, and the text tower's vocabulary has {text.vocab_size} tokens: the "
            "tokenizer is another model's"
        )
    masks_by_id = type(text).__name__ == "HFTextEncoder" or getattr(text, "cls_emb", None) is not None
    expected = text.config.pad_token_id if hasattr(text, "config") else getattr(text, "pad_id", None)
    if masks_by_id and expected != tokenizer.pad_token_id:
        raise M2IBError(
            f"the tokenizer pads with id {tokenizer.pad_token_id}, and the text tower masks id {expected}: it would "
            "read the padding. The tokenizer or the text tower's config.json is another model's"
        )


def _image_processor(cfg: Mapping[str, Any], image_size: Any) -> CLIPImageProcessorPil:
    """Return the image processor with the pixels of OpenCLIP's transform for inference."""
    size = cfg.get("size") or image_size
    height, width = (size, size) if isinstance(size, int) else size
    mode = cfg.get("resize_mode") or "shortest"
    whole = {"height": height, "width": width}
    options: dict[str, Any]
    if mode == "squash":
        options = {"size": whole, "do_center_crop": False}
    elif mode == "shortest" and height == width:
        options = {"size": {"shortest_edge": height}, "crop_size": whole, "do_center_crop": True}
    else:
        raise M2IBError(
            f"OpenCLIP's resize_mode={mode!r} with pictures of {width} x {height} pixels is not supported; there is "
            "'shortest' for squares, and 'squash'"
        )
    bilinear = cfg.get("interpolation") == "bilinear"
    return CLIPImageProcessorPil(
        resample=Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC,
        image_mean=_channels(cfg.get("mean") or _MEAN),
        image_std=_channels(cfg.get("std") or _STD),
        **options,
    )


def _channels(values: Any) -> list[float]:
    return [float(value) for value in values] if isinstance(values, list | tuple) else [float(values)] * 3
