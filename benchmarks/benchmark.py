"""Three ways to explain the same pairs, side by side in one run: the textbook method, this package in float32, in bf16.

    python benchmarks/benchmark.py --quick                 # ViT-B/32, within 3 minutes on 2 cores
    python benchmarks/benchmark.py                         # ViT-B/32, B/16, L/14, several batch sizes: 20 minutes
    python benchmarks/benchmark.py --device cuda
    python benchmarks/benchmark.py --render docs/benchmark.json

Random weights, random pictures, captions of 12 tokens, the published settings (10 steps, 10 draws, layer 9 of 12). The
ways take turns, and each keeps its best time: other work on a machine only adds. The table is printed, and written as
JSON beside it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import warnings
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arithmetic import FORMULA, tower_bytes, tower_flops
from benchmark_report import Row, growth, render
from lightning_share import lightning_share
from machine import PeakMemory, describe, matmul_peak, read_bandwidth, say, seconds
from PIL import Image
from textbook import TextbookRun, explain_textbook
from torch.autograd import DeviceType
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode
from workload import CAPTION, PRECISIONS, Package, make_model, make_pairs

from m2ib_lightning import BottleneckSettings, explain
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.pairs.pair import PairBatch, RawPair

WORK = {
    "products with weights": ("aten::addmm", "aten::mm"),
    "attention": ("aten::bmm", "aten::baddbmm", "softmax", "scaled_dot_product"),
    "activation": ("silu",),
    "layer norm": ("layer_norm",),
    "sums and products by element": ("aten::add", "aten::mul", "aten::sub", "aten::div", "aten::addcmul", "aten::sum"),
    "copies and fills": ("aten::copy_", "aten::cat", "aten::fill_", "aten::clone", "aten::gather", "aten::scatter"),
}
"""Kinds of work, by parts of the names of torch's operations; the first that fits counts."""

_MOST_DIFFERENT = 1e-4
"""Between the textbook's maps and the package's in float32, max|a - b| / max|b|."""


def measure_shape(
    shape: str, batches: list[int], textbook_steps: int, repeats: int, peaks: dict[str, float], device: torch.device
) -> list[Row]:
    """All rows of one shape."""
    model = make_model(shape, device)
    settings = resolve(BottleneckSettings(), model.encoder)
    package = Package(model, settings, device)
    ready = {size: package.batch(make_pairs(model, size)) for size in batches}
    flops = count_flops(model, settings, package, ready[batches[0]])
    rows = [Row(shape, method, size, np.inf, flops) for size in batches for method in PRECISIONS]
    textbook = Row(shape, "textbook", 1, np.inf)
    with package.explainer.at_work():  # warming up, and the memory: not while time is taken, for it gives memory back
        for row in rows:
            memory = PeakMemory(device)
            package(ready[row.batch], PRECISIONS[row.method])
            row.peak_memory = memory.read()
    for repeat in range(repeats):
        if textbook_steps:
            run = textbook_run(model, replace(settings, steps=textbook_steps), ready[batches[0]])
            textbook.seconds_per_pair = min(textbook.seconds_per_pair, run.step_seconds * settings.steps)
        with package.explainer.at_work():
            for row in rows:
                took = seconds(partial(package, ready[row.batch], PRECISIONS[row.method]), device) / row.batch
                row.seconds_per_pair = min(row.seconds_per_pair, took)
        say(f"{shape}: round {repeat + 1} of {repeats}")
    for row in rows:
        row.share_of_peak = flops / row.seconds_per_pair / peaks[row.method]
        row.ratio = textbook.seconds_per_pair / row.seconds_per_pair if textbook_steps else None
    compare(model, settings, ready[batches[0]], rows, textbook, textbook_steps, device)
    return [textbook, *rows] if textbook_steps else rows


def textbook_run(model: LoadedModel, settings: BottleneckSettings, batch: PairBatch) -> TextbookRun:
    """The textbook method on the first pair of a batch."""
    pixels, ids = batch.inputs["image"]["pixel_values"][:1], batch.inputs["text"]["input_ids"][:1]
    return explain_textbook(model.encoder.model, pixels, ids, settings)


def count_flops(model: LoadedModel, settings: BottleneckSettings, package: Package, batch: PairBatch) -> int:
    """FLOPs per pair by torch's counter; the formula must agree to 1 %."""
    fused_is_not_counted = sdpa_kernel(SDPBackend.MATH)
    with package.explainer.at_work(), fused_is_not_counted, FlopCounterMode(display=False) as counter:
        package(batch, torch.float32)
    counted = counter.get_total_flops() // len(batch)
    config = model.encoder.model.config
    tokens = {
        "image": model.encoder.towers["image"].max_tokens,
        "text": batch.inputs["text"]["input_ids"].shape[1],
    }
    towers = {"image": config.vision_config, "text": config.text_config}
    layers = {m: settings.tower(m).layer for m in MODALITIES}
    formula = sum(
        tower_flops(towers[m], config.projection_dim, tokens[m], int(layers[m] or 0), settings) for m in MODALITIES
    )
    if abs(formula / counted - 1) > 0.01:
        sys.exit(f"the formula gives {formula / 1e9:.2f} GFLOP a pair, torch counts {counted / 1e9:.2f}")
    return formula


def compare(
    model: LoadedModel,
    settings: BottleneckSettings,
    batch: PairBatch,
    rows: list[Row],
    textbook: Row,
    textbook_steps: int,
    device: torch.device,
) -> None:
    """The maps: float32 against the textbook's after as many steps, bf16 against float32 after all of them."""
    if textbook_steps:
        short = replace(settings, steps=textbook_steps)
        package = Package(model, short, device)
        with package.explainer.at_work():
            ours = package(batch, torch.float32)[0]
        theirs = textbook_run(model, short, batch)
        found = [ours.image_saliency.ravel(), ours.text_saliency]
        textbook.max_difference = max(
            float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, theirs.saliency, strict=True)
        )
    package = Package(model, settings, device)
    with package.explainer.at_work():
        exact, mixed = (package(batch, dtype)[0] for dtype in PRECISIONS.values())
    pairs = [(exact.image_saliency, mixed.image_saliency), (exact.text_saliency, mixed.text_saliency)]
    for row in rows:
        if row.method == "bfloat16":
            row.pearson = min(float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) for a, b in pairs)


def single_call(device: torch.device, size: int, repeats: int) -> dict[str, float]:
    """``explain()`` of one pair, and of a batch per pair, after loading."""
    model = make_model("ViT-B/32", device)
    pictures: list[Any] = [pair.image for pair in make_pairs(model, size)]
    alone = together = np.inf
    for repeat in range(repeats + 1):
        one = seconds(lambda: explain(pictures[0], CAPTION, model=model, device=device), device)
        many = seconds(lambda: explain(pictures, CAPTION, model=model, device=device, batch_size=size), device) / size
        if repeat:
            alone, together = min(alone, one), min(together, many)
    return {"one_pair": alone, "per_pair_of_a_batch": together, "batch": size, "ratio": alone / together}


def biggest_batch(device: torch.device) -> dict[str, int]:
    """On a GPU: the largest power of two that goes through ViT-B/32 in one batch."""
    model = make_model("ViT-B/32", device)
    settings = replace(resolve(BottleneckSettings(), model.encoder), steps=2)  # the last has no backward pass
    found = {}
    for name, dtype in PRECISIONS.items():
        package, size = Package(model, settings, device), 64
        pairs = make_pairs(model, 1)
        one = package.batch(pairs)
        try:
            while size <= 2**16:
                inputs = [{k: v.expand(size, *v.shape[1:]) for k, v in one.inputs[m].items()} for m in MODALITIES]
                repeated = PairBatch(one.pairs * size, [], inputs[0], inputs[1])
                with package.explainer.at_work():
                    package(repeated, dtype)
                found[name] = size
                size *= 2
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return found


def floors(peaks: dict[str, float], device: torch.device) -> dict[str, float]:
    """What ViT-B/32 in float32 can't go below, in seconds a pair: arithmetic at the peak, and reading the weights."""
    model = make_model("ViT-B/32", device)
    settings = resolve(BottleneckSettings(), model.encoder)
    package = Package(model, settings, device)
    flops = count_flops(model, settings, package, package.batch(make_pairs(model, 1)))
    config = model.encoder.model.config
    towers = {"image": config.vision_config, "text": config.text_config}
    read = [tower_bytes(towers[m], int(settings.tower(m).layer or 0), settings, itemsize=4) for m in MODALITIES]
    bandwidth = read_bandwidth(device)
    return {
        "gigabytes_per_second": bandwidth / 1e9,
        "arithmetic": flops / peaks["float32"],
        "weights_of_a_pair_alone": sum(prefix + suffix for prefix, suffix in read) / bandwidth,
        "weights_of_four_pairs_each": sum(prefix + suffix for prefix, suffix in read) / bandwidth / 4,
    }


def profile_loop(device: torch.device, size: int) -> dict[str, float]:
    """Where the time goes, ViT-B/32 in float32: the share of each kind of work, by torch's profiler."""
    model = make_model("ViT-B/32", device)
    package = Package(model, resolve(BottleneckSettings(), model.encoder), device)
    batch = package.batch(make_pairs(model, size))
    with package.explainer.at_work():
        package(batch, torch.float32)
        with profile() as profiler:
            package(batch, torch.float32)
    totals = dict.fromkeys([*WORK, "the rest"], 0.0)
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:  # a kernel's time is in its operation's already
            continue
        kind = next((kind for kind, names in WORK.items() if any(name in event.key for name in names)), "the rest")
        totals[kind] += event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    whole = sum(totals.values())
    return {kind: total / whole for kind, total in totals.items()}


def loading_rate(model: LoadedModel) -> float:
    """Pairs per second that one worker reads: a JPEG of 640 x 480 pixels and the caption."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    pair, preparer = RawPair("jpeg:0", buffer.getvalue(), "", CAPTION), model.preparer
    return 50 / seconds(lambda: [preparer.prepare(pair, keep_picture=False) for _ in range(50)], torch.device("cpu"))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ViT-B/32, two batch sizes, one round")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmark.json"), help="where the numbers go")
    parser.add_argument("--render", type=Path, help="only print the table of such a file")
    arguments = parser.parse_args()
    if arguments.render:
        print(render(json.loads(arguments.render.read_text())))
        return
    warnings.filterwarnings("ignore")
    device, quick = torch.device(arguments.device), arguments.quick
    steps, repeats = 3, 1 if quick else 2
    on_gpu = device.type == "cuda"
    peaks = {name: matmul_peak(dtype, device) for name, dtype in PRECISIONS.items()}
    plan = {"ViT-B/32": [1, 8]} if quick else {"ViT-B/32": [1, 8, 64], "ViT-B/16": [1, 4], "ViT-L/14": [1]}
    if on_gpu:
        plan = {"ViT-B/32": [1, 16, 64, 256, 1024], "ViT-B/16": [1, 64, 256], "ViT-L/14": [1, 16, 64]}
        if quick:
            plan = {"ViT-B/32": [1, 64, 1024], "ViT-B/16": [1, 256], "ViT-L/14": [1, 64]}
    rows: list[Row] = []
    for shape, batches in plan.items():
        rows += measure_shape(shape, batches, steps, repeats, peaks, device)
    if not quick:
        rows += measure_shape("ViT-B/32 at 768 px", [1], 0, 1, peaks, device)
    report = {
        "machine": describe(device),
        "peaks": peaks,
        "formula": FORMULA,
        "steps": BottleneckSettings().steps,
        "textbook_steps": steps,
        "rows": [asdict(row) for row in rows],
        "growth": growth(rows),
        "explain": single_call(device, 8, repeats),
        "lightning_share": lightning_share(make_model("ViT-B/32", device), make_pairs, device),
        "floors": floors(peaks, device),
        "profile": profile_loop(device, 8),
        "loading": loading_rate(make_model("ViT-B/32", device)),
        "biggest_batch": biggest_batch(device) if on_gpu and not quick else {},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{render(report)}\n\nFLOPs:\n{FORMULA}\n\nwritten to {arguments.json}")
    if any(row.max_difference is not None and not row.max_difference < _MOST_DIFFERENT for row in rows):
        sys.exit("the textbook and the package do not agree: the ratios above compare two different things")


if __name__ == "__main__":
    main()
