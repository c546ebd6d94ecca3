"""The tensors of OpenAI's CLIP: which ones a model of certain sizes has, and where they are in ``CLIPModel``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from m2ib_lightning.errors import M2IBError, quoted
from m2ib_lightning.models.weights import check_weights

State = Mapping[str, Tensor]

LONG_CLIP_KEPT = 20
"""LongCLIP's text tower takes the positions before this one from CLIP's own table, the others from a second one."""

NUMBERS = ("input_resolution", "context_length", "vocab_size")
"""Whole numbers that OpenAI's archives hold beside the weights. They are checked."""

_SECOND_TABLE = "positional_embedding_res"

_NEEDED = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "positional_embedding": 2,
    "token_embedding.weight": 2,
    "text_projection": 2,
}
"""Tensors that say the sizes, and their numbers of dimensions."""


@dataclass(frozen=True)
class TowerSizes:
    """Width, number of blocks, and width of the blocks' MLP of a tower."""

    width: int
    blocks: int
    mlp: int


@dataclass(frozen=True)
class Sizes:
    """Sizes of a CLIP, as its tensors have them.

    Attributes:
        image: sizes of the image tower.
        text: sizes of the text tower.
        patch: side of a patch in pixels.
        grid: number of patches along a side of the picture.
        embedding: width of the joint embedding.
        context: largest number of tokens of a caption.
        vocabulary: number of tokens.
    """

    image: TowerSizes
    text: TowerSizes
    patch: int
    grid: int
    embedding: int
    context: int
    vocabulary: int


@dataclass(frozen=True)
class _Entry:
    """A tensor of OpenAI's, its shape, and the names of what it becomes."""

    name: str
    shape: tuple[int, ...]
    targets: tuple[str, ...]
    how: Literal["same", "transpose", "split"] = "same"

    def convert(self, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        if self.how == "split":
            yield from zip(self.targets, tensor.chunk(3), strict=True)
        else:
            yield self.targets[0], tensor.T if self.how == "transpose" else tensor


def infer_sizes(state: State, what: str) -> Sizes:
    """Return the sizes that the tensors have.

    Args:
        state: the tensors by OpenAI's names.
        what: the file, for messages.

    Raises:
        M2IBError: if a tensor that says a size is missing or has another number of dimensions, or the patches form no
            square.
    """
    missing = [name for name in _NEEDED if name not in state]
    if missing:
        check_weights({"missing_keys": missing, "unexpected_keys": _unknown(state)}, what, "OpenAI's CLIP")
    for name, dimensions in _NEEDED.items():
        if state[name].ndim != dimensions or not state[name].numel():
            raise M2IBError(f"{what}: {name} must have {dimensions} dimensions, got the shape {_shape(state[name])}")
    width, _, patch, _ = state["visual.conv1.weight"].shape
    positions = len(state["visual.positional_embedding"]) - 1
    grid = isqrt(positions)
    if not grid or grid**2 != positions:
        raise M2IBError(
            f"{what}: visual.positional_embedding has {positions + 1} rows; expected is one for the class token and "
            "one for each patch of a square picture"
        )
    vocabulary, text_width = state["token_embedding.weight"].shape
    return Sizes(
        _tower(state, "visual.transformer.", width),
        _tower(state, "transformer.", text_width),
        patch=patch,
        grid=grid,
        embedding=state["text_projection"].shape[1],
        context=len(state["positional_embedding"]),
        vocabulary=vocabulary,
    )


def convert(state: State, sizes: Sizes, what: str) -> dict[str, Tensor]:
    """Return the tensors by their names in ``CLIPModel``; each tensor of the file is used exactly once.

    Args:
        state: the tensors by OpenAI's names, without the ``NUMBERS``.
        sizes: their sizes.
        what: the file, for messages.

    Raises:
        M2IBError: if a tensor is missing, left over, or of another shape. The message names it.
    """
    entries = {entry.name: entry for entry in _entries(sizes)}
    if _SECOND_TABLE in state:
        entries[_SECOND_TABLE] = replace(entries["positional_embedding"], name=_SECOND_TABLE)
    reshaped = [
        f"{name}: expected {entry.shape}, got {_shape(state[name])}"
        for name, entry in entries.items()
        if name in state and tuple(state[name].shape) != entry.shape
    ]
    missing, left_over = entries.keys() - state.keys(), state.keys() - entries.keys()
    report = {"missing_keys": missing, "unexpected_keys": left_over, "mismatched_keys": reshaped}
    check_weights(report, what, "OpenAI's CLIP of these sizes")
    tensors = dict(state)
    if (second := tensors.pop(_SECOND_TABLE, None)) is not None:
        first = tensors["positional_embedding"]
        tensors["positional_embedding"] = torch.cat([first[:LONG_CLIP_KEPT], second[LONG_CLIP_KEPT:]])
    return {target: part for name, tensor in tensors.items() for target, part in entries[name].convert(tensor)}


def _tower(state: State, prefix: str, width: int) -> TowerSizes:
    """Sizes of the tower whose blocks are numbered from 0 without a gap."""
    start = f"{prefix}resblocks."
    numbers = {name.removeprefix(start).split(".")[0] for name in state if name.startswith(start)}
    blocks = next(count for count in range(len(numbers) + 1) if str(count) not in numbers)
    first = state.get(f"{start}0.mlp.c_fc.weight")
    return TowerSizes(width, max(blocks, 1), 4 * width if first is None or not first.ndim else len(first))


def _entries(sizes: Sizes) -> Iterator[_Entry]:
    image, text = sizes.image.width, sizes.text.width
    vision = "vision_model.embeddings."
    yield _Entry("visual.class_embedding", (image,), (f"{vision}class_embedding",))
    kernel, positions = (image, 3, sizes.patch, sizes.patch), (sizes.grid**2 + 1, image)
    yield _Entry("visual.conv1.weight", kernel, (f"{vision}patch_embedding.weight",))
    yield _Entry("visual.positional_embedding", positions, (f"{vision}position_embedding.weight",))
    yield from _pair("visual.ln_pre", image, "vision_model.pre_layrnorm")
    yield from _blocks("visual.transformer.", sizes.image, "vision_model.")
    yield from _pair("visual.ln_post", image, "vision_model.post_layernorm")
    yield _Entry("visual.proj", (image, sizes.embedding), ("visual_projection.weight",), "transpose")
    words = "text_model.embeddings."
    yield _Entry("token_embedding.weight", (sizes.vocabulary, text), (f"{words}token_embedding.weight",))
    yield _Entry("positional_embedding", (sizes.context, text), (f"{words}position_embedding.weight",))
    yield from _blocks("transformer.", sizes.text, "text_model.")
    yield from _pair("ln_final", text, "text_model.final_layer_norm")
    yield _Entry("text_projection", (text, sizes.embedding), ("text_projection.weight",), "transpose")
    yield _Entry("logit_scale", (), ("logit_scale",))


def _blocks(source: str, tower: TowerSizes, target: str) -> Iterator[_Entry]:
    width, mlp = tower.width, tower.mlp
    for block in range(tower.blocks):
        ours, theirs = f"{target}encoder.layers.{block}.", f"{source}resblocks.{block}."
        yield from _pair(f"{theirs}ln_1", width, f"{ours}layer_norm1")
        for kind, shape in (("weight", (3 * width, width)), ("bias", (3 * width,))):
            parts = tuple(f"{ours}self_attn.{part}_proj.{kind}" for part in "qkv")
            yield _Entry(f"{theirs}attn.in_proj_{kind}", shape, parts, "split")
        yield from _pair(f"{theirs}attn.out_proj", width, f"{ours}self_attn.out_proj", width)
        yield from _pair(f"{theirs}ln_2", width, f"{ours}layer_norm2")
        yield from _pair(f"{theirs}mlp.c_fc", mlp, f"{ours}mlp.fc1", width)
        yield from _pair(f"{theirs}mlp.c_proj", width, f"{ours}mlp.fc2", mlp)


def _pair(source: str, width: int, target: str, inputs: int | None = None) -> Iterator[_Entry]:
    """Weight and bias of a norm, or of a linear layer with so many ``inputs``."""
    shape = (width,) if inputs is None else (width, inputs)
    yield _Entry(f"{source}.weight", shape, (f"{target}.weight",))
    yield _Entry(f"{source}.bias", (width,), (f"{target}.bias",))


def _unknown(state: State) -> list[str]:
    """Names of tensors that no CLIP of OpenAI's has."""
    blocks = ("visual.transformer.resblocks.", "transformer.resblocks.")
    names = {entry.name for entry in _entries(Sizes(TowerSizes(1, 0, 1), TowerSizes(1, 0, 1), 1, 1, 1, 1, 1))}
    return [name for name in state if name not in names and name != _SECOND_TABLE and not name.startswith(blocks)]


def _shape(tensor: Tensor) -> str:
    return quoted(tuple(tensor.shape))
