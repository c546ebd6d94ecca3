"""Compares three ways to explain the same pairs: the textbook method, this package in float32, and in bfloat16.

    python benchmarks/benchmark.py --quick                 # ViT-B/32, within 3 minutes on 2 cores
    python benchmarks/benchmark.py                         # ViT-B/32, B/16, L/14, several batch sizes: 20 minutes
    python benchmarks/benchmark.py --device cuda
    python benchmarks/benchmark.py --family all            # other families against CLIP, of the size of ViT-B/32
    python benchmarks/benchmark.py --render docs/benchmark.json

Random weights, random pictures, captions of 12 tokens, the published settings (10 steps, 10 draws, layer 9 of 12). The
ways alternate, and each keeps its best time, because other work on the machine only adds time. The table is printed,
and its numbers are written as JSON.
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
from family_speed import FAMILIES, measure_families
from lightning_share import lightning_share
from machine import PeakMemory, describe, log, matmul_peak, read_bandwidth, seconds
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
"""Kinds of work and parts of the names of their torch operations; the first match counts."""

_TOLERANCE = 1e-4
"""Largest difference between the textbook's maps and the package's in float32, max|a - b| / max|b|."""


def measure_shape(
    shape: str, batches: list[int], textbook_steps: int, repeats: int, peaks: dict[str, float], device: torch.device
) -> list[Row]:
    """Return all rows of one shape."""
    model = make_model(shape, device)
    settings = resolve(BottleneckSettings(), model.encoder)
    package = Package(model, settings, device)
    by_size = {size: package.batch(make_pairs(model, size)) for size in batches}
    flops = count_flops(model, settings, package, by_size[batches[0]])
    rows = [Row(shape, method, size, np.inf, flops) for size in batches for method in PRECISIONS]
    textbook = Row(shape, "textbook", 1, np.inf)
    with package.explainer.at_work():  # warms up and measures memory; separate, because PeakMemory frees memory
        for row in rows:
            memory = PeakMemory(device)
            package(by_size[row.batch], PRECISIONS[row.method])
            row.peak_memory = memory.read()
    for repeat in range(repeats):
        if textbook_steps:
            run = textbook_run(model, replace(settings, steps=textbook_steps), by_size[batches[0]])
            textbook.seconds_per_pair = min(textbook.seconds_per_pair, run.step_seconds * settings.steps)
        with package.explainer.at_work():
            for row in rows:
                duration = seconds(partial(package, by_size[row.batch], PRECISIONS[row.method]), device)
                row.seconds_per_pair = min(row.seconds_per_pair, duration / row.batch)
        log(f"{shape}: round {repeat + 1} of {repeats}")
    for row in rows:
        row.share_of_peak = flops / row.seconds_per_pair / peaks[row.method]
        row.ratio = textbook.seconds_per_pair / row.seconds_per_pair if textbook_steps else None
    compare(model, settings, by_size[batches[0]], rows, textbook, textbook_steps, device)
    return [textbook, *rows] if textbook_steps else rows


def textbook_run(model: LoadedModel, settings: BottleneckSettings, batch: PairBatch) -> TextbookRun:
    """Explain the first pair of a batch with the textbook method."""
    pixels, ids = batch.inputs["image"]["pixel_values"][:1], batch.inputs["text"]["input_ids"][:1]
    return explain_textbook(model.encoder.model, pixels, ids, settings)


def count_flops(model: LoadedModel, settings: BottleneckSettings, package: Package, batch: PairBatch) -> int:
    """Return the FLOPs per pair by the formula; torch's counter must agree to 1 %."""
    unfused = sdpa_kernel(SDPBackend.MATH)  # the counter does not count fused attention
    with package.explainer.at_work(), unfused:
        package(batch, torch.float32)  # the first batch is also compared with the model
        with FlopCounterMode(display=False) as counter:
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
    """Compare maps: float32 with the textbook's after ``textbook_steps``, bfloat16 with float32 after all steps."""
    if textbook_steps:
        short = replace(settings, steps=textbook_steps)
        package = Package(model, short, device)
        with package.explainer.at_work():
            ours = package(batch, torch.float32)[0]
        theirs = textbook_run(model, short, batch)
        saliency = [ours.image_saliency.ravel(), ours.text_saliency]
        textbook.max_difference = max(
            float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(saliency, theirs.saliency, strict=True)
        )
    package = Package(model, settings, device)
    with package.explainer.at_work():
        exact, mixed = (package(batch, dtype)[0] for dtype in PRECISIONS.values())
    pairs = [(exact.image_saliency, mixed.image_saliency), (exact.text_saliency, mixed.text_saliency)]
    for row in rows:
        if row.method == "bfloat16":
            row.pearson = min(float(np.corrcoef(np.ravel(a), np.ravel(b))[0, 1]) for a, b in pairs)


def single_call(device: torch.device, size: int, repeats: int) -> dict[str, float]:
    """Return the seconds of ``explain()`` for one pair, and per pair of a batch, without loading."""
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
    """Return the largest batch of ViT-B/32 on a GPU, a power of two, by precision."""
    model = make_model("ViT-B/32", device)
    settings = replace(resolve(BottleneckSettings(), model.encoder), steps=2)  # the last has no backward pass
    sizes = {}
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
                sizes[name] = size
                size *= 2
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
    return sizes


def floors(peaks: dict[str, float], device: torch.device) -> dict[str, float]:
    """Return lower bounds of ViT-B/32 in float32, in seconds per pair: arithmetic at the peak, reading the weights."""
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
    """Return the share of time of each kind of work (ViT-B/32, float32), by torch's profiler."""
    model = make_model("ViT-B/32", device)
    package = Package(model, resolve(BottleneckSettings(), model.encoder), device)
    batch = package.batch(make_pairs(model, size))
    with package.explainer.at_work():
        package(batch, torch.float32)
        with profile() as profiler:
            package(batch, torch.float32)
    totals = dict.fromkeys([*WORK, "the rest"], 0.0)
    for event in profiler.key_averages():
        if event.device_type != DeviceType.CPU:  # the operation's time includes its kernels'
            continue
        kind = next((kind for kind, names in WORK.items() if any(name in event.key for name in names)), "the rest")
        totals[kind] += event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
    overall = sum(totals.values())
    return {kind: total / overall for kind, total in totals.items()}


def loading_rate(model: LoadedModel) -> float:
    """Return the pairs per second that one worker reads: a JPEG of 640 x 480 pixels and the caption."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    pair, preparer = RawPair("jpeg:0", buffer.getvalue(), "", CAPTION), model.preparer
    return 50 / seconds(lambda: [preparer.prepare(pair, keep_picture=False) for _ in range(50)], torch.device("cpu"))


def main() -> None:
    """Measure, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ViT-B/32, two batch sizes, one round")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmark.json"), help="file of the numbers")
    parser.add_argument("--render", type=Path, help="print the table of such a file and stop")
    parser.add_argument("--family", nargs="+", choices=["all", *FAMILIES], help="compare these with CLIP and stop")
    arguments = parser.parse_args()
    if arguments.family:
        names = list(FAMILIES) if "all" in arguments.family else arguments.family
        print(measure_families(names, torch.device(arguments.device)))
        return
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
    if any(row.max_difference is not None and not row.max_difference < _TOLERANCE for row in rows):
        sys.exit("the maps of the textbook and the package differ: the ratios above are not of the same work")


if __name__ == "__main__":
    main()
