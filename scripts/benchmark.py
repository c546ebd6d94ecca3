"""Three ways to explain the same pairs, side by side in one run: the textbook method, this package in float32, in bf16.

    python scripts/benchmark.py --quick                 # ViT-B/32, within 3 minutes on 2 cores
    python scripts/benchmark.py                         # ViT-B/32, B/16, L/14, several batch sizes
    python scripts/benchmark.py --device cuda
    python scripts/benchmark.py --render docs/benchmark.json

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
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arithmetic import FORMULA, tower_flops
from lightning_share import lightning_share
from machine import PeakMemory, describe, matmul_peak, seconds
from PIL import Image
from textbook import TextbookRun, explain_textbook
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from m2ib_lightning import BottleneckSettings, explain
from m2ib_lightning.attribution import Attribution
from m2ib_lightning.explainer import Explainer, resolve
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.models.load import wrap_model
from m2ib_lightning.pairs import PairBatch, RawPair
from m2ib_lightning.settings import MODALITIES

SHAPES: dict[str, dict[str, dict[str, int]]] = {
    "ViT-B/32": {"vision": {"patch_size": 32}, "text": {}},
    "ViT-B/16": {"vision": {"patch_size": 16}, "text": {}},
    "ViT-L/14": {
        "vision": {"patch_size": 14, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24}
        | {"num_attention_heads": 16},
        "text": {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12},
    },
}
SHAPES["ViT-B/32 at 768 px"] = {"vision": {"patch_size": 32, "image_size": 768}, "text": {}}  # 577 tokens
CAPTION = "the small red circle left of a large blue star"
"""10 words, each a token of the bundled tokenizer; 12 with the special ones."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass
class Row:
    """One line of the table."""

    shape: str
    method: str
    batch: int
    seconds_per_pair: float
    flops_per_pair: int | None = None
    share_of_peak: float | None = None
    ratio: float | None = None
    peak_memory: int | None = None
    max_difference: float | None = None
    pearson: float | None = None


def make_model(shape: str, device: torch.device) -> LoadedModel:
    """Random weights in that shape, read through the bundled model's tokenizer."""
    bundled = load_model("scenes")
    tokenizer = bundled.processor.tokenizer
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    parts = SHAPES[shape]
    torch.manual_seed(0)
    config = CLIPConfig(
        vision_config=parts["vision"],
        text_config=parts["text"] | ids,
        projection_dim=768 if "L" in shape else 512,
    )
    side = config.vision_config.image_size
    image_processor = type(bundled.processor.image_processor)(size={"shortest_edge": side}, crop_size=side)
    return wrap_model(CLIPModel(config).eval().to(device), CLIPProcessor(image_processor, tokenizer))


def make_pairs(model: LoadedModel, count: int) -> list[RawPair]:
    """So many random pictures, each with the caption."""
    side = model.encoder.model.config.vision_config.image_size
    rng = np.random.default_rng(0)
    return [
        RawPair(f"random:{k}", Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)), "", CAPTION)
        for k in range(count)
    ]


class Package:
    """This package, without a Trainer: a batch at a time in one precision.

    Args:
        model: what is explained.
        settings: with layers resolved.
        device: where.
    """

    def __init__(self, model: LoadedModel, settings: BottleneckSettings, device: torch.device) -> None:
        self.model = model
        self.device = device
        self.explainer = Explainer(model.encoder, settings)
        self.explainer.bottlenecks.to(device)

    def batch(self, pairs: list[RawPair]) -> PairBatch:
        """The pairs, ready on the device."""
        preparer = self.model.preparer
        return preparer.collate([preparer.prepare(pair, keep_picture=False) for pair in pairs]).to(self.device)

    def __call__(self, batch: PairBatch, dtype: torch.dtype) -> list[Attribution]:
        """Explain them."""
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            return self.explainer(batch, self.explainer.optimizer())


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
    for repeat in range(repeats + 1):  # the first is warming up
        if textbook_steps:
            run = textbook_run(model, replace(settings, steps=textbook_steps), ready[batches[0]])
            textbook.seconds_per_pair = min(textbook.seconds_per_pair, run.step_seconds * settings.steps)
        with package.explainer.at_work():
            for row in rows:
                memory = PeakMemory(device)
                took = seconds(partial(package, ready[row.batch], PRECISIONS[row.method]), device) / row.batch
                row.peak_memory = memory.read()
                row.seconds_per_pair = min(row.seconds_per_pair, took) if repeat else np.inf
        say(f"{shape}: round {repeat} of {repeats}")
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
    settings = replace(resolve(BottleneckSettings(), model.encoder), steps=1)
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


def loading_rate(model: LoadedModel) -> float:
    """Pairs per second that one worker reads: a JPEG of 640 x 480 pixels and the caption."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    pair, preparer = RawPair("jpeg:0", buffer.getvalue(), "", CAPTION), model.preparer
    return 50 / seconds(lambda: [preparer.prepare(pair, keep_picture=False) for _ in range(50)], torch.device("cpu"))


def say(text: str) -> None:
    """To standard error, so that standard output is the table."""
    print(text, file=sys.stderr, flush=True)


def render(report: dict[str, Any]) -> str:
    """The report in Markdown."""
    machine, peaks = report["machine"], report["peaks"]
    gigaflops = ", ".join(f"{name} {value / 1e9:.0f} GFLOP/s" for name, value in peaks.items())
    lines = [
        f"{machine['name']}, {machine['threads']} threads, torch {machine['torch']}. "
        f"Instructions: {machine.get('flags', 'CUDA ' + str(machine.get('cuda')))}. Matrix-product peak: {gigaflops}.",
        "",
        "| shape | method | batch | s/pair | pairs/s | ratio | GFLOP/pair | share of peak | peak memory | agreement |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
        *(_line(Row(**row), report["textbook_steps"]) for row in report["rows"]),
    ]
    share, call = report["lightning_share"], report["explain"]
    lines += [
        "",
        f"The textbook's time is {report['steps']} times the median of its steps 2 to {report['textbook_steps']}.",
        f"`explain()` of one pair: {call['one_pair']:.3f} s; of {call['batch']:.0f} pairs, "
        f"{call['per_pair_of_a_batch']:.3f} s each; ratio {call['ratio']:.2f}.",
        f"Lightning: {100 * share['share']:.2f} % of the loop's time is outside tensor work "
        f"(ViT-B/32, batch {share['batch']:.0f}).",
        f"One worker reads {report['loading']:.0f} pairs/s (JPEG of 640 x 480 pixels).",
    ]
    growth = report.get("growth")
    if growth:
        lines += [f"{name}: time {g['time']:.2f}x, FLOPs {g['flops']:.2f}x." for name, g in growth.items()]
    if report.get("biggest_batch"):
        lines += [f"Biggest batch of ViT-B/32 that fits: {report['biggest_batch']}."]
    return "\n".join(lines)


def _line(row: Row, textbook_steps: int) -> str:
    agreement = ""
    if row.max_difference is not None:
        agreement = f"float32 differs by {row.max_difference:.1e} after {textbook_steps} steps"
    if row.pearson is not None:
        agreement = f"Pearson {row.pearson:.5f} with float32"
    cells = [
        row.shape,
        row.method,
        row.batch,
        f"{row.seconds_per_pair:.3f}",
        f"{1 / row.seconds_per_pair:.2f}",
        "" if row.ratio is None else f"{row.ratio:.1f}",
        "" if row.flops_per_pair is None else f"{row.flops_per_pair / 1e9:.0f}",
        "" if row.share_of_peak is None else f"{100 * row.share_of_peak:.0f} %",
        "" if row.peak_memory is None else f"{row.peak_memory / 2**20:.0f} MiB",
        agreement,
    ]
    return f"| {' | '.join(map(str, cells))} |"


def growth(rows: list[Row]) -> dict[str, dict[str, float]]:
    """How time per pair grows with the batch and with the tokens, beside the FLOPs."""
    first = [row for row in rows if row.shape == "ViT-B/32" and row.method == "float32"]
    found = {}
    if len(first) > 1:
        time = max(row.seconds_per_pair for row in first[1:]) / first[0].seconds_per_pair
        found[f"Batch {first[0].batch} to {first[-1].batch}, float32, the worst"] = {"time": time, "flops": 1.0}
    for row in rows:
        if row.shape == "ViT-B/32 at 768 px" and first:
            same = next((other for other in first if other.batch == row.batch), first[0])
            if row.method == "float32":
                ratio = {"time": row.seconds_per_pair / same.seconds_per_pair}
                ratio["flops"] = float(row.flops_per_pair or 0) / float(same.flops_per_pair or 1)
                found[f"50 to 577 image tokens, float32, batch {row.batch}"] = ratio
    return found


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
    on_gpu = device.type == "cuda"
    peaks = {name: matmul_peak(dtype, device) for name, dtype in PRECISIONS.items()}
    steps, repeats = (3, 1) if quick else (4, 2)
    plan = {"ViT-B/32": [1, 8]} if quick else {"ViT-B/32": [1, 4, 16, 64], "ViT-B/16": [1, 4], "ViT-L/14": [1]}
    if on_gpu:
        plan = {"ViT-B/32": [1, 16, 64, 256, 1024], "ViT-B/16": [1, 64, 256], "ViT-L/14": [1, 16, 64]}
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
        "loading": loading_rate(make_model("ViT-B/32", device)),
        "biggest_batch": biggest_batch(device) if on_gpu else {},
    }
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"{render(report)}\n\nFLOPs:\n{FORMULA}\n\nwritten to {arguments.json}")


if __name__ == "__main__":
    main()
