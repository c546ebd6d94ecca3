"""The check that a model and its processor fit each other, before anything is explained."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.variable_framing import make_framing

_LARGEST_SIDE = 4096
"""Longest side in pixels of a picture that a processor may make. A processor's file may claim any size."""

_IMAGE_FILE = "preprocessor_config.json (or processor_config.json)"


def check_compatible(encoder: Encoder, processor: Any) -> None:
    """Check that the towers take what the processor makes, and that both embed into one space.

    Raises:
        M2IBError: if the picture's size or channels, the padding side, or the sizes of the embeddings do not agree.
            The message names both files.
    """
    dtypes = {parameter.dtype for parameter in encoder.model.parameters()}
    with frozen(encoder.model, dtype=torch.float32 if len(dtypes) > 1 else None), torch.no_grad():
        _check_padding(encoder, getattr(processor, "tokenizer", None))
        _check_picture(encoder, processor)
        sizes = {m: encoder.towers[m].embedding_size for m in MODALITIES}
    if len(set(sizes.values())) > 1:
        raise M2IBError(
            f"the towers embed into spaces of different sizes: image {sizes['image']}, text {sizes['text']}. One of "
            "the projections is not the model's"
        )


def _check_padding(encoder: Encoder, tokenizer: Any) -> None:
    """Check the side of the padding where the tower reads padding."""
    side = getattr(tokenizer, "padding_side", "right")
    if encoder.family.padding == "max_length" and side != "right":
        raise M2IBError(
            f"tokenizer_config.json says padding_side={side!r}, and the text tower of config.json reads the padding: "
            "it was trained with padding on the right, and gives another embedding otherwise. Set padding_side to "
            '"right" in tokenizer_config.json (tokenizer.padding_side = "right")'
        )


def _check_picture(encoder: Encoder, processor: Any) -> None:
    """Check that the image tower takes a picture as the processor makes it."""
    framing, tower = make_framing(processor.image_processor), encoder.towers["image"]
    width, height = framing.input_size
    problem = None
    if not (0 < width <= _LARGEST_SIDE and 0 < height <= _LARGEST_SIDE):
        problem = f"sides must be from 1 to {_LARGEST_SIDE} pixels"
    else:
        try:
            pixels, _ = framing(Image.new("RGB", (64, 48), "grey"))
            height, width = pixels.shape[-2:]
            tower.embed({"pixel_values": pixels[None].to(next(encoder.model.parameters()))})
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            problem = str(error).strip().split("\n")[0].rstrip(".")
    if problem is None:
        return
    config = getattr(encoder.model, "config", None)
    config = getattr(config, "vision_config", config)
    sizes = ", ".join(
        f"{name}={getattr(config, name)}"
        for name in ("image_size", "patch_size", "num_channels")
        if hasattr(config, name)
    )
    raise M2IBError(
        f"{_IMAGE_FILE} makes pictures of {width} x {height} pixels, and the image tower of config.json ({sizes}) "
        f"does not take them: {problem}. Use the processor that the model was trained with"
    )
