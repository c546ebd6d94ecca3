"""Time per FLOP of the families against CLIP: random models of the size of ViT-B/32, built from configurations.

The families take turns, and each keeps its best time, because other work on the machine only adds time. On a CPU the
time is that of the processor, so that waiting for other work does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
import transformers
from machine import describe, log, seconds
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from workload import Package

from m2ib_lightning import BottleneckSettings
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.encoder.suffix import describe_blocks
from m2ib_lightning.encoder.towers import Encoder
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import Pair, PairBatch

WORDS = 10
PAIRS = 1
STEPS = 3
ROUNDS = 12

_VISION = {"patch_size": 32, "image_size": 224, "hidden_size": 768, "intermediate_size": 3072}
_VISION |= {"num_hidden_layers": 12, "num_attention_heads": 12}
_SMALL = {"vocab_size": 2000, "num_hidden_layers": 12, "bos_token_id": 0, "eos_token_id": 3, "pad_token_id": 1}
_CLIP_TEXT = _SMALL | {
    "hidden_size": 512,
    "intermediate_size": 2048,
    "num_attention_heads": 8,
    "hidden_act": "quick_gelu",
}
_BERT_TEXT = _SMALL | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}


def _model(name: str, text: dict[str, Any], model: str | None = None, **options: Any) -> Callable[[], Any]:
    def make() -> Any:
        config = getattr(transformers, f"{name}Config")(text_config=text, vision_config=_VISION, **options)
        return getattr(transformers, model or f"{name}Model")(config)

    return make


def _dual_encoder() -> Any:
    vision, text = transformers.ViTConfig(**_VISION), transformers.BertConfig(**_BERT_TEXT)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=512)
    return transformers.VisionTextDualEncoderModel(config)


FAMILIES: dict[str, Callable[[], Any]] = {
    "clip": _model("CLIP", _CLIP_TEXT),
    "metaclip_2": _model("MetaClip2", _CLIP_TEXT),
    "siglip": _model("Siglip", _BERT_TEXT | {"projection_size": 768}),
    "chinese_clip": _model("ChineseCLIP", _BERT_TEXT),
    "altclip": _model("AltCLIP", _BERT_TEXT | {"project_dim": 768}),
    "blip": _model("Blip", _BERT_TEXT | {"encoder_hidden_size": 768}, "BlipForImageTextRetrieval"),
    "dual-encoder": _dual_encoder,
}
"""Makers of the models, by family."""


def measure_families(names: list[str], device: torch.device) -> str:
    """Return a table in Markdown: the time of a pair, its FLOPs, and the time per FLOP relative to CLIP's."""
    names = ["clip", *(name for name in names if name != "clip")]
    best = dict.fromkeys(names, np.inf)
    with ExitStack() as stack:
        work = {name: _Work(FAMILIES[name](), device, stack) for name in names}
        for number in range(ROUNDS):
            for name, one in work.items():
                best[name] = min(best[name], _seconds(one, device) / PAIRS)
            log(f"round {number + 1} of {ROUNDS}")
    machine = describe(device)
    unit = "CPU s" if device.type == "cpu" else "s"
    lines = [
        f"{machine['name']}, {machine['threads']} threads, torch {machine['torch']}; float32, batch {PAIRS}, "
        f"{STEPS} steps, best of {ROUNDS} rounds.",
        "",
        f"| family | {unit}/pair | GFLOP/pair | time per FLOP, CLIP = 1 | image blocks | text blocks |",
        "| --- | ---: | ---: | ---: | --- | --- |",
    ]
    clip = best["clip"] / work["clip"].flops
    for name, one in work.items():
        relative = best[name] / one.flops / clip
        blocks = " | ".join(one.blocks)
        lines.append(f"| {name} | {best[name]:.3f} | {one.flops / 1e9:.1f} | {relative:.2f} | {blocks} |")
    return "\n".join(lines)


class _Work:
    """The explanation of one batch of a model.

    Args:
        model: the model.
        device: device to run on.
        stack: the explainer is at work until it ends.
    """

    def __init__(self, model: Any, device: torch.device, stack: ExitStack) -> None:
        encoder = Encoder(model.eval().to(device))
        settings = resolve(BottleneckSettings(steps=STEPS), encoder)
        self.package = Package(LoadedModel(encoder, None), settings, device)
        self.batch = _batch(encoder, device)
        self.blocks = [describe_blocks(encoder.towers[m], int(settings.tower(m).layer or 0)) for m in MODALITIES]
        stack.enter_context(self.package.explainer.at_work())
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:  # it leaves out fused attention
            self()  # the first batch is also compared with the model
            before = counter.get_total_flops()
            self()
            self.flops = (counter.get_total_flops() - before) / PAIRS

    def __call__(self) -> None:
        self.package(self.batch, torch.float32)


def _batch(encoder: Encoder, device: torch.device) -> PairBatch:
    """Return random pictures, each with a caption of ten words between its two special tokens."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(10, 1000, (PAIRS, WORDS + 2), generator=generator)
    ids[:, 0], ids[:, -1] = 0, 3
    if encoder.family.padding == "max_length":
        ids = torch.nn.functional.pad(ids, (0, encoder.towers["text"].max_tokens - ids.shape[1]), value=1)
    pairs = [_pair(str(number)) for number in range(PAIRS)]
    pixels = torch.randn(PAIRS, 3, 224, 224, generator=generator)
    inputs = {"input_ids": ids.to(device), "attention_mask": (ids != 1).long().to(device)}
    return PairBatch(pairs, [], {"pixel_values": pixels.to(device)}, inputs)


def _pair(name: str) -> Pair:
    return Pair(
        f"random:{name}",
        name,
        "",
        "x" * WORDS,
        tokens=["x"] * WORDS,
        token_offsets=[(k, k + 1) for k in range(WORDS)],
        token_positions=list(range(1, WORDS + 1)),
        image_size=(224, 224),
        crop=(0, 0, 224, 224),
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the time of a call: the processor's on a CPU, else that on the clock."""
    if device.type != "cpu":
        return seconds(work, device)
    start = time.process_time()
    work()
    return time.process_time() - start
