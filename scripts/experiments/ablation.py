"""Measures what each part of the fast loop saves: ViT-B/32 in float32, batches of 8, one part disabled at a time.

    python scripts/experiments/ablation.py --json docs/ablation.json

Every variant runs in its own process, because one of them changes how the process treats freed memory. The variants
alternate, and each keeps its best time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from m2ib_lightning import BottleneckSettings
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.m2ib import explainer
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.models import LoadedModel

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
from machine import describe, log, seconds
from workload import Package, make_model, make_pairs

BATCH = 8


def _use_the_models_blocks(model: LoadedModel) -> None:
    for modality in MODALITIES:
        tower = model.encoder.towers[modality]
        tower.spec = replace(tower.spec, parts=None)


def _return_freed_memory(model: LoadedModel) -> None:
    explainer.keep_freed_memory = lambda: None


def _change_nothing(model: LoadedModel) -> None:
    pass


VARIANTS: dict[str, tuple[Callable[[LoadedModel], None], dict[str, Any], bool]] = {
    "as it is": (_change_nothing, {}, False),
    "the model's own blocks: nothing absorbed, nothing fused": (_use_the_models_blocks, {}, False),
    "freed memory given back to the kernel": (_return_freed_memory, {}, False),
    "at most 512 rows at a time": (_change_nothing, {"max_rows": 512}, False),
    "at most 1,024 rows": (_change_nothing, {"max_rows": 1024}, False),
    "at most 4,096 rows": (_change_nothing, {"max_rows": 4096}, False),
    "all rows of the batch": (_change_nothing, {"max_rows": 10**9}, False),
    "model.compile=true": (_change_nothing, {}, True),
}


def measure(name: str) -> float:
    """Return the seconds per pair of one variant, the best of three batches."""
    change, values, compile_ = VARIANTS[name]
    device = torch.device("cpu")
    model = make_model("ViT-B/32", device)
    change(model)
    package = Package(model, resolve(BottleneckSettings().override(values), model.encoder), device, compile=compile_)
    batch = package.batch(make_pairs(model, BATCH))
    with package.explainer.at_work():
        times = [seconds(partial(package, batch, torch.float32), device) for _ in range(4)]
    return min(times[1:]) / BATCH


def render(report: dict[str, Any]) -> str:
    """Return the report's table in Markdown."""
    base = report["seconds_per_pair"]["as it is"]
    lines = [f"| {name} | {value:.3f} | {value / base:.2f} |" for name, value in report["seconds_per_pair"].items()]
    return "\n".join(["| ViT-B/32, float32, batch 8 | s/pair | ratio |", "| --- | ---: | ---: |", *lines])


def main() -> None:
    """Measure each variant in its own process, print the table, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("runs/ablation.json"), help="file of the numbers")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--render", type=Path, help="print the table of such a file and stop")
    parser.add_argument("--one", choices=VARIANTS, help="measure this variant, print its seconds and stop")
    arguments = parser.parse_args()
    if arguments.one:
        print(measure(arguments.one))
        return
    if arguments.render:
        print(render(json.loads(arguments.render.read_text())))
        return
    best = dict.fromkeys(VARIANTS, float("inf"))
    for number in range(arguments.rounds):
        for name in VARIANTS:
            command = [sys.executable, __file__, "--one", name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            best[name] = min(best[name], float(done.stdout.split()[-1]))
        log(f"round {number + 1} of {arguments.rounds}")
    report = {"machine": describe(torch.device("cpu")), "seconds_per_pair": best}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(arguments.json, json.dumps(report, indent=2) + "\n")
    print(render(report))


if __name__ == "__main__":
    main()
