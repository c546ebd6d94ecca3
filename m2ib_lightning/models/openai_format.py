"""Checkpoints in OpenAI CLIP's own format (``openai:FILE``), loaded as Hugging Face's ``CLIPModel``.

The file holds tensors and neither a configuration nor a tokenizer. Sizes follow from the tensors' shapes. Three things
do not: the activation (OpenAI's is quick_gelu), the number of heads (OpenAI's is width / 64), and the way pictures are
normalised (OpenAI's mean and deviation). A JSON file beside the checkpoint may say otherwise (``open_clip_json.py``).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor
from transformers.utils import logging

from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.models.archive import read_checkpoint
from m2ib_lightning.models.clip_tokenizer import find_tokenizer
from m2ib_lightning.models.open_clip_json import Companion, companion_paths, read_companion
from m2ib_lightning.models.openai_weights import NUMBERS, Sizes, State, convert, infer_sizes
from m2ib_lightning.models.weights import check_weights

_NESTED = ("state_dict", "model_state_dict", "model")
"""Keys below which a training keeps the tensors."""

_ANCHOR = "visual.conv1.weight"
"""A tensor that every CLIP of OpenAI's has; what stands before its name stands before all names."""

_HEAD_WIDTH = 64
_WIDEST_IMAGE_TOWER = 1024
"""Widest image tower of which the width of a head is certain. Wider ones are LAION's, with heads of 80 to 112."""

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)

_OTHERS = {
    "visual.layer1.": "its image tower is a ResNet, whose feature maps are no tokens: the bottleneck needs a ViT",
    "visual.trunk.": "its image tower is timm's (an open_clip model of another class)",
    "visual.attnpool.": "its image tower is a ResNet, whose feature maps are no tokens: the bottleneck needs a ViT",
    "text.transformer.": "its text tower stands apart (open_clip's CustomTextCLIP)",
    "text_decoder.": "it is a CoCa",
    "vision_model.": "its tensors have Hugging Face's names: give the folder with its config.json, without 'openai:'",
}
"""Beginnings of names that tell another kind of model."""


def load_openai(name: str) -> tuple[CLIPModel, CLIPProcessor, Path]:
    """Load a checkpoint in OpenAI's format: a state dict, one nested in a training's file, or a TorchScript archive.

    Weights keep their dtype; if they have several, all get the widest one.

    Args:
        name: ``openai:`` and the path of the file.

    Returns:
        The model in evaluation mode, its processor, and the folder of the file.

    Raises:
        M2IBError: if the file is damaged or of another model, a tensor is missing, left over or of another shape, the
            number of heads is not certain, or there is no vocabulary.
    """
    path = Path(name.removeprefix("openai:")).expanduser()
    what = f"the checkpoint {str(path)!r}"
    if path.is_dir():
        raise M2IBError(f"{what} is a folder: give a file, as in model.name=openai:{path / 'FILE.pt'}")
    if not path.exists():
        raise M2IBError(
            f"there is no file {str(path)!r}: openai: takes the path of a checkpoint in OpenAI CLIP's format, as in "
            "model.name=openai:ViT-B-32.pt"
        )
    content = read_checkpoint(path, NUMBERS)
    state, nested = _tensors(content, what, path.stat().st_size)
    numbers = {key: state.pop(key) for key in NUMBERS if key in state}
    sizes = infer_sizes(state, what)
    companion = read_companion(path, sizes)
    config = _configure(sizes, companion, _check_numbers(numbers, sizes, what), path, what)
    tensors = convert(_without_masks(state, sizes), sizes, what)
    processor = _make_processor(sizes, companion, config, path.parent)
    if nested and companion.activation is None:
        warnings.warn(
            f"{what} is that of a training (it has {', '.join(nested)}), which does not say the activation: OpenAI's "
            "quick_gelu is used. If it was trained with open_clip from a model without 'quickgelu' in its name, write "
            f'{{"quick_gelu": false}} into {companion_paths(path)[0].name} beside it, else {{"quick_gelu": true}}',
            stacklevel=3,
        )
    return _make_model(config, tensors, what), processor, path.parent


def _tensors(content: Mapping[str, Any], what: str, file_size: int) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors by OpenAI's names, and the keys that stand beside them in a training's file."""
    outer = next((key for key in _NESTED if isinstance(content.get(key), Mapping)), None)
    inner = content if outer is None else content[outer]
    beside = [] if outer is None else [key for key in content if key != outer][:4]
    names = [str(name) for name in inner]
    anchors = [name for name in names if name == _ANCHOR or name.endswith(f".{_ANCHOR}")]
    prefix = anchors[0].removesuffix(_ANCHOR) if len(anchors) == 1 else ""
    state = {str(name).removeprefix(prefix): value for name, value in inner.items()}
    for beginning, reason in _OTHERS.items():
        if any(name.startswith(beginning) for name in state):
            raise M2IBError(f"{what} is no ViT in OpenAI's format: {reason}")
    if len(anchors) > 1 or len(state) < len(names):
        raise M2IBError(f"{what} has several models: {_ANCHOR} is there as {', '.join(map(quoted, anchors[:4]))}")
    for name, value in state.items():
        if name not in NUMBERS and not _is_plain(value):
            kind = f"of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise M2IBError(f"{what}: {quoted(name)} must be a tensor of floating-point numbers, and is {kind}")
    _check_bytes(state, what, file_size)
    return state, beside


def _check_bytes(state: Mapping[str, Any], what: str, file_size: int) -> None:
    """Check that the tensors have their own bytes in the file. Blocks may share one causal mask."""
    sizes = {name: tensor.nbytes for name, tensor in state.items() if isinstance(tensor, Tensor)}
    masks = [size for name, size in sizes.items() if _is_mask(name)]
    if sum(sizes.values()) - sum(masks) + max(masks, default=0) > file_size:
        raise M2IBError(f"{what}: its tensors claim more numbers than the file has")


def _is_mask(name: str) -> bool:
    return name.split(".")[-1] == "attn_mask" and not name.startswith("visual.")


def _is_plain(value: Any) -> bool:
    strided = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return strided and value.dtype in _FLOATS


def _check_numbers(numbers: Mapping[str, Any], sizes: Sizes, what: str) -> int | None:
    """Check the whole numbers of OpenAI's archives, and return the side of the picture that they say."""
    said = {}
    for name, value in numbers.items():
        number = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        if type(number) is not int:
            raise M2IBError(f"{what}: {name} must be a whole number, got {quoted(number)}")
        said[name] = number
    side = said.get("input_resolution")
    checks = (
        ("context_length", sizes.context, said.get("context_length")),
        ("vocab_size", sizes.vocabulary, said.get("vocab_size")),
        ("input_resolution", sizes.grid, side if side is None else side // sizes.patch),
    )
    for name, size, number in checks:
        if number is not None and number != size:
            unit = f" patches of {sizes.patch} pixels" if name == "input_resolution" else ""
            raise M2IBError(f"{what} says {name}={said[name]}, and its tensors have {size}{unit}")
    return side


def _without_masks(state: State, sizes: Sizes) -> State:
    """Drop the causal mask, which some files keep as a tensor; any other mask is left over."""
    return {name: tensor for name, tensor in state.items() if not (_is_mask(name) and _is_causal(tensor, sizes))}


def _is_causal(mask: Tensor, sizes: Sizes) -> bool:
    shape = (sizes.context, sizes.context)
    return mask.shape == shape and torch.equal(mask.float(), torch.full(shape, float("-inf")).triu(1))


def _configure(sizes: Sizes, companion: Companion, side: int | None, path: Path, what: str) -> CLIPConfig:
    activation = companion.activation or "quick_gelu"
    image_heads = companion.image_heads or _heads(sizes.image.width, _WIDEST_IMAGE_TOWER, "image", path, what)
    text_heads = companion.text_heads or _heads(sizes.text.width, None, "text", path, what)
    for tower, width, heads in (("image", sizes.image.width, image_heads), ("text", sizes.text.width, text_heads)):
        if width % heads:
            raise M2IBError(f"{companion.source}: the {tower} tower's width {width} can't be split into {heads} heads")
    image, text = (
        {
            "hidden_size": tower.width,
            "intermediate_size": tower.mlp,
            "num_hidden_layers": tower.blocks,
            "num_attention_heads": heads,
            "hidden_act": activation,
            "layer_norm_eps": 1e-5,
        }
        for tower, heads in ((sizes.image, image_heads), (sizes.text, text_heads))
    )
    image |= {"image_size": companion.image_size or side or sizes.grid * sizes.patch, "patch_size": sizes.patch}
    end = sizes.vocabulary - 1
    text |= {"vocab_size": sizes.vocabulary, "max_position_embeddings": sizes.context}
    text |= {"bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end}
    return CLIPConfig(text_config=text, vision_config=image, projection_dim=sizes.embedding)


def _heads(width: int, widest: int | None, tower: str, path: Path, what: str) -> int:
    if width % _HEAD_WIDTH or (widest is not None and width > widest):
        key = '"vision_cfg": {"head_width": 80}' if tower == "image" else '"text_cfg": {"heads": 8}'
        names = " or ".join(path.name for path in companion_paths(path))
        raise M2IBError(
            f"{what}: its {tower} tower is {width} wide, and the file does not say how many attention heads that is "
            f"(it is {_HEAD_WIDTH} a head in OpenAI's models, and 80 to 112 in ViT-H, g, bigG and e). Put the model's "
            f"configuration in open_clip's form beside it, as {names}: {{{key}, ...}}"
        )
    return width // _HEAD_WIDTH


def _make_processor(sizes: Sizes, companion: Companion, config: CLIPConfig, folder: Path) -> CLIPProcessor:
    side = config.vision_config.image_size
    square = {"height": side, "width": side}
    image_processor = CLIPImageProcessorPil(
        size=square if companion.squash else {"shortest_edge": side},
        do_center_crop=not companion.squash,
        crop_size=square,
        image_mean=list(companion.mean),
        image_std=list(companion.std),
        resample=companion.resample,
    )
    tokenizer = find_tokenizer(folder, sizes.vocabulary, sizes.context)
    return CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer)


def _make_model(config: CLIPConfig, tensors: State, what: str) -> CLIPModel:
    """Make the model from copies of the tensors, which may be views of the file."""
    dtype = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    state = {name: tensor.to(dtype, copy=True).contiguous() for name, tensor in tensors.items()}
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, report = CLIPModel.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    finally:
        if bars:
            logging.enable_progress_bar()
    check_weights(report, what, "CLIPModel")
    model.name_or_path = ""
    return model.eval()
