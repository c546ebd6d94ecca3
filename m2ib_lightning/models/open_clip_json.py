"""What a JSON file in open_clip's form says of the checkpoint beside it, and what that checkpoint can't say itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD, PILImageResampling

from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.files import first_line
from m2ib_lightning.models.openai_weights import Sizes

FOLDER_FILE = "open_clip_config.json"

_LARGEST_FILE = 1 << 20
"""Largest size of the JSON file, in bytes."""

_SAME = {
    "model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "init_logit_scale"},
    "vision_cfg": {"image_size", "layers", "width", "head_width", "patch_size", "mlp_ratio", "patch_dropout"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
    "preprocess_cfg": {"size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color"},
}
"""Keys that may have any value: they are compared with the tensors, used, or say nothing of the function."""

_PLAIN = ("tok", "argmax", "learnable", "linear")
"""Values of other keys with which the model is still OpenAI's; so it is without a value, with 0 and with false."""


@dataclass(frozen=True)
class Companion:
    """What the file beside a checkpoint says; OpenAI's own values where it says nothing.

    Attributes:
        source: the file; None if there is none.
        activation: activation of the MLPs; None if the file says nothing of the model.
        image_heads: number of attention heads of the image tower.
        text_heads: number of attention heads of the text tower.
        mean: mean of the picture's three channels.
        std: standard deviation of the picture's three channels.
        resample: filter that resizes a picture.
        squash: whether a picture is resized out of shape instead of being cropped.
        image_size: side of the picture in pixels.
    """

    source: Path | None = None
    activation: str | None = None
    image_heads: int | None = None
    text_heads: int | None = None
    mean: tuple[float, ...] = tuple(OPENAI_CLIP_MEAN)
    std: tuple[float, ...] = tuple(OPENAI_CLIP_STD)
    resample: PILImageResampling = PILImageResampling.BICUBIC
    squash: bool = False
    image_size: int | None = None


def companion_paths(checkpoint: Path) -> list[Path]:
    """The files that may say more of a checkpoint, the first that exists counts."""
    names = dict.fromkeys([f"{checkpoint.name}.json", f"{checkpoint.stem}.json", FOLDER_FILE])
    return [checkpoint.parent / name for name in names]


def read_companion(checkpoint: Path, sizes: Sizes) -> Companion:
    """Read the JSON file beside a checkpoint, if there is one.

    It has open_clip's form: ``{"model_cfg": {...}, "preprocess_cfg": {...}}``, or the content of ``model_cfg`` alone.
    A ``model_cfg`` without ``quick_gelu`` means gelu, as in open_clip.

    Raises:
        M2IBError: if the file is not of that form, says other sizes than the tensors have, or asks for a model that
            ``CLIPModel`` is not.
    """
    path = next((path for path in companion_paths(checkpoint) if path.is_file()), None)
    if path is None:
        return Companion()
    content = _read(path)
    whole = {"model_cfg", "preprocess_cfg"} & content.keys()
    model = _group(path, content, "model_cfg") if whole else content
    pictures = _group(path, content, "preprocess_cfg") if whole else {}
    _check_keys(path, "model_cfg", model)
    image, text = _group(path, model, "vision_cfg"), _group(path, model, "text_cfg")
    _check_sizes(path, model, image, text, sizes)
    if pictures.get("resize_mode") == "longest":
        raise M2IBError(f"{path}: resize_mode='longest' is not supported; 'shortest' and 'squash' are")
    return Companion(
        path,
        ("quick_gelu" if model.get("quick_gelu") else "gelu") if model else None,
        sizes.image.width // _whole(path, image, "head_width", 64) if image else None,
        _whole(path, text, "heads", 8) if text else None,
        **{key: _three(path, pictures[key], key) for key in ("mean", "std") if pictures.get(key) is not None},
        resample=PILImageResampling["BILINEAR" if pictures.get("interpolation") == "bilinear" else "BICUBIC"],
        squash=pictures.get("resize_mode") == "squash",
        image_size=_side(path, "image_size", image, sizes) or _side(path, "size", pictures, sizes),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST_FILE + 1)
        if len(data) > _LARGEST_FILE:
            raise ValueError(f"it has more than {_LARGEST_FILE} bytes")
        content = json.loads(data.decode("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise M2IBError(f"{path} could not be read as JSON: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise M2IBError(f"{path} must hold keys and values in open_clip's form, got {quoted(content)}")
    return content


def _group(path: Path, content: Mapping[str, Any], name: str) -> dict[str, Any]:
    group = content.get(name, {})
    if not isinstance(group, dict):
        raise M2IBError(f"{path}: {name} must hold keys and values, got {quoted(group)}")
    _check_keys(path, name, group)
    return group


def _check_keys(path: Path, name: str, group: Mapping[str, Any]) -> None:
    for key, value in group.items():
        if key not in _SAME[name] and value and value not in _PLAIN:
            raise M2IBError(
                f"{path}: {name} has {quoted(key)}: {quoted(value)}, with which the model is another than OpenAI's CLIP"
            )


def _check_sizes(path: Path, model: Any, image: Any, text: Any, sizes: Sizes) -> None:
    pairs = (
        ("embed_dim", model.get("embed_dim"), sizes.embedding),
        ("vision_cfg.width", image.get("width"), sizes.image.width),
        ("vision_cfg.layers", image.get("layers"), sizes.image.blocks),
        ("vision_cfg.patch_size", image.get("patch_size"), sizes.patch),
        ("text_cfg.width", text.get("width"), sizes.text.width),
        ("text_cfg.layers", text.get("layers"), sizes.text.blocks),
        ("text_cfg.context_length", text.get("context_length"), sizes.context),
        ("text_cfg.vocab_size", text.get("vocab_size"), sizes.vocabulary),
    )
    for name, said, size in pairs:
        if said is not None and said != size:
            raise M2IBError(f"{path} says {name}={quoted(said)}, and the tensors of the checkpoint say {size}")


def _side(path: Path, name: str, group: Mapping[str, Any], sizes: Sizes) -> int | None:
    """Side of the picture in pixels, which has the grid of the checkpoint."""
    value = group.get(name)
    sides = set(value) if isinstance(value, list) else {value}
    side = sides.pop()
    if side is None:
        return None
    if sides or type(side) is not int or side // sizes.patch != sizes.grid:
        raise M2IBError(
            f"{path} says {name}={quoted(value)}, and the checkpoint has {sizes.grid} x {sizes.grid} patches of "
            f"{sizes.patch} x {sizes.patch} pixels"
        )
    return side


def _whole(path: Path, group: Mapping[str, Any], name: str, default: int) -> int:
    value = group.get(name, default)
    if type(value) is not int or value < 1:
        raise M2IBError(f"{path}: {name} must be a whole number from 1, got {quoted(value)}")
    return value


def _three(path: Path, value: Any, name: str) -> tuple[float, ...]:
    good = isinstance(value, list) and len(value) == 3 and all(type(number) in (int, float) for number in value)
    if not good or not all(abs(number) < 1e6 and (name == "mean" or number > 0) for number in value):
        raise M2IBError(f"{path}: {name} must be three numbers, for pictures from 0 to 1, got {quoted(value)}")
    return tuple(map(float, value))
