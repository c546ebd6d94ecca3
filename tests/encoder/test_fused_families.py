"""The fused blocks of every family equal the model's own, and a changed block is not fused."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from m2ib_lightning import explain
from m2ib_lightning.encoder.blocks import Block, PooledBlock
from m2ib_lightning.encoder.families.known_blocks import block_parts
from m2ib_lightning.encoder.frozen import frozen
from m2ib_lightning.encoder.layout import Layout
from m2ib_lightning.encoder.suffix import FusedSuffix, Suffix, make_suffix
from m2ib_lightning.encoder.towers import Encoder, Tower
from m2ib_lightning.models.load import wrap_model
from tests.encoder.test_suffix import value_and_gradient
from tests.equality import relative_difference
from tests.zoo import MEMBERS, Member, make_member, randomise

OWN_BLOCKS = ("Aimv2Model",)
"""Families whose blocks are not fused: a gated MLP and RMS norms."""

FAST = (
    "MetaClip2Model",
    "Siglip2Model",
    "ChineseCLIPModel",
    "BlipForImageTextRetrieval",
    "Tipsv2Model",
    "FlavaModel",
    "VisionTextDualEncoderModel",
)
"""One family for each layout of blocks; the slow tests try the others."""

FAMILIES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MEMBERS]
TOKENS = 10

member: Callable[[str], Member] = cache(make_member)


def padded(tower: Tower) -> Layout:
    """Return the layout of three sequences, two of them with padding where the tower reads a mask."""
    lengths = torch.tensor([4, TOKENS, 7])
    valid = torch.arange(TOKENS)[None] < lengths[:, None]
    if tower.spec.reads is None:
        return Layout(torch.ones_like(valid), None if tower.spec.pooled is None else torch.zeros(3).long(), False)
    pooled = lengths - 1 if tower.spec.causal else torch.zeros(3).long()
    return Layout(valid, None if tower.spec.pooled is None else pooled)


def hidden_of(tower: Tower, layout: Layout, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(3, TOKENS, tower.width, generator=generator, dtype=torch.float64).to(dtype)
    return hidden.masked_fill(~layout.valid[..., None], 9)  # what is not read may hold anything


@pytest.mark.parametrize("name", FAMILIES)
def test_the_fused_suffix_equals_the_models_own_blocks_at_every_cut(name: str) -> None:
    model = member(name).model
    with frozen(model, dtype=torch.float64):
        for tower in Encoder(model).towers.values():
            layout = padded(tower)
            hidden = hidden_of(tower, layout)
            for layer in range(-1, len(tower.blocks) - 1):
                fused = make_suffix(tower, layer, torch.float64)
                assert isinstance(fused, FusedSuffix) == (name not in OWN_BLOCKS)
                expected = value_and_gradient(Suffix(tower, layer, torch.float64), hidden, layout)
                for actual, wanted in zip(value_and_gradient(fused, hidden, layout), expected, strict=True):
                    assert relative_difference(actual, wanted) < 1e-12
                assert (expected[1][~layout.valid] == 0).all()


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("ChineseCLIPModel", torch.bfloat16),
        ("BlipForImageTextRetrieval", torch.float16),
        ("Tipsv2Model", torch.bfloat16),
    ],
)
def test_half_precision_is_near_full_precision(name: str, dtype: torch.dtype) -> None:
    model = member(name).model
    with frozen(model):
        for tower in Encoder(model).towers.values():
            layout = padded(tower)
            hidden = hidden_of(tower, layout, torch.float32)
            half, full = (value_and_gradient(make_suffix(tower, 0, d), hidden, layout) for d in (dtype, torch.float32))
            cosines = torch.nn.functional.cosine_similarity(half[0], full[0], dim=-1)
            assert (cosines > 0.999).all()  # bfloat16 has 8 bits
            assert relative_difference(half[1], full[1]) < 0.1
            assert (half[1][~layout.valid] == 0).all()


SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}


@pytest.mark.parametrize("name", ["XLMRoberta", "Camembert", "Dinov2WithRegisters"])
@torch.no_grad()
def test_blocks_of_classes_that_no_tiny_model_has(name: str) -> None:
    config = getattr(transformers, f"{name}Config")(**SIZES)
    model: Any = getattr(transformers, f"{name}Model")(config)
    randomise(model)
    model.double()
    (block,) = model.encoder.layer
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    assert_same(block, hidden, block(hidden))


def assert_same(block: nn.Module, hidden: torch.Tensor, output: Any) -> None:
    output = output if torch.is_tensor(output) else output[0]
    parts = block_parts(block)
    assert parts is not None
    assert relative_difference(Block(parts, hidden.dtype)(hidden, False), output) < 1e-12
    position = torch.tensor([1, 3])
    pooled = PooledBlock(parts, hidden.dtype).pooled(hidden, position, False)
    assert relative_difference(pooled, output[torch.arange(2), position]) < 1e-12


@pytest.mark.parametrize("options", [{}, {"ls_init_value": 0.5}, {"act_layer": "QuickGELU"}], ids=str)
@torch.no_grad()
def test_blocks_of_open_clip(options: dict[str, Any]) -> None:
    library = pytest.importorskip("open_clip.transformer")
    if "act_layer" in options:
        options = {"act_layer": getattr(library, options["act_layer"])}
    block = library.ResidualAttentionBlock(32, 4, **options)
    randomise(block)
    block.double()
    hidden = torch.randn(2, 5, 32, dtype=torch.float64)
    assert_same(block, hidden, block(hidden))
    assert block_parts(library.ResidualAttentionBlock(32, 4, is_cross_attention=True)) is None
    assert block_parts(library.ResidualAttentionBlock(32, 4, batch_first=False)) is None
    assert block_parts(library.CustomResidualAttentionBlock(32, 4)) is None


@torch.no_grad()
def test_blocks_of_timm() -> None:
    library = pytest.importorskip("timm.models.vision_transformer")
    for options in ({}, {"qkv_bias": True, "init_values": 0.5, "drop_path": 0.1}):
        block = library.Block(32, 4, **options)
        randomise(block)
        block.double()
        hidden = torch.randn(2, 5, 32, dtype=torch.float64)
        assert_same(block, hidden, block(hidden))
    assert block_parts(library.Block(32, 4, qk_norm=True)) is None
    assert block_parts(library.Block(32, 4, scale_attn_norm=True)) is None
    assert block_parts(library.ResPostBlock(32, 4)) is None


def bert() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SIZES)).eval()


def decoder() -> Any:
    return transformers.BertModel(transformers.BertConfig(**SIZES, is_decoder=True, add_cross_attention=True)).eval()


def hooked() -> Any:
    model = bert()
    model.encoder.layer[0].output.dropout.register_forward_hook(lambda module, inputs, output: 2 * output)
    return model


def adapted() -> Any:
    model = bert()
    model.encoder.layer[0].output.adapter = nn.Linear(32, 32)
    return model


def without_dropout() -> Any:
    model = bert()
    model.encoder.layer[0].output.dropout = nn.Tanh()
    return model


def subclassed() -> Any:
    model = bert()
    block = model.encoder.layer[0]
    block.attention.self.__class__ = type("MySelfAttention", (type(block.attention.self),), {})
    return model


def other_norm() -> Any:
    model = bert()
    model.encoder.layer[0].output.LayerNorm = nn.RMSNorm(32)
    return model


def without_a_layer() -> Any:
    model = bert()
    model.encoder.layer[0].output.dense = nn.Identity()
    return model


@pytest.mark.parametrize("make", [without_a_layer, decoder, hooked, adapted, without_dropout, subclassed, other_norm])
def test_a_changed_block_has_no_parts(make: Callable[[], Any]) -> None:
    assert block_parts(bert().encoder.layer[0]) is not None
    assert block_parts(make().encoder.layer[0]) is None


@pytest.mark.parametrize("name", ["ChineseCLIPModel", "Aimv2Model"])
def test_the_first_batch_says_once_which_blocks_are_fused(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model = wrap_model(*member(name)[:2])
    pictures = [np.zeros((40, 40, 3), np.uint8)] * 2
    with caplog.at_level("INFO", logger="m2ib_lightning"):
        explain(pictures, "a red circle", model=model, batch_size=1, bottleneck={"steps": 1})
    kind = "the model's own (Aimv2EncoderLayer)" if name in OWN_BLOCKS else "fused"
    lines = [record.message for record in caplog.records if record.name.startswith("m2ib_lightning")]
    assert lines == [f"image blocks: {kind}; text blocks: {kind}"]
