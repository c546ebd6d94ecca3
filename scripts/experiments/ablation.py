"""What each piece of the fast loop gives: ViT-B/32 in float32, batches of 8, with one piece left out at a time.

    python scripts/experiments/ablation.py --json docs/ablation.json

Every variant has a process of its own, because one of them is how the process treats freed memory; they take turns, and
each keeps its best time.
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
from machine import describe, say, seconds
from workload import Package, make_model, make_pairs

from m2ib_lightning import BottleneckSettings
from m2ib_lightning.config import MODALITIES
from m2ib_lightning.m2ib import explainer
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.models import LoadedModel

BATCH = 8


def _own_blocks(model: LoadedModel) -> None:
    for modality in MODALITIES:
        tower = model.encoder.towers[modality]
        tower.spec = replace(tower.spec, parts=None)


def _memory_given_back(model: LoadedModel) -> None:
    explainer.keep_freed_memory = lambda: None


def _nothing(model: LoadedModel) -> None:
    pass


VARIANTS: dict[str, tuple[Callable[[LoadedModel], None], dict[str, Any], bool]] = {
    "as it is": (_nothing, {}, False),
    "the model's own blocks: nothing absorbed, nothing fused": (_own_blocks, {}, False),
    "freed memory given back to the kernel": (_memory_given_back, {}, False),
    "at most 512 rows at a time": (_nothing, {"max_rows": 512}, False),
    "at most 1,024 rows": (_nothing, {"max_rows": 1024}, False),
    "at most 4,096 rows": (_nothing, {"max_rows": 4096}, False),
    "all rows of the batch": (_nothing, {"max_rows": 10**9}, False),
    "model.compile=true": (_nothing, {}, True),
}


def measure(name: str) -> float:
    """Seconds per pair of one variant, the best of three batches."""
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
    """The report in Markdown."""
    base = report["seconds_per_pair"]["as it is"]
    lines = [f"| {name} | {value:.3f} | {value / base:.2f} |" for name, value in report["seconds_per_pair"].items()]
    return "\n".join(["| ViT-B/32, float32, batch 8 | s/pair | ratio |", "| --- | ---: | ---: |", *lines])


def main() -> None:
    """Measure each in a process of its own, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path("runs/ablation.json"), help="where the numbers go")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--render", type=Path, help="only print the table of such a file")
    parser.add_argument("--one", choices=VARIANTS, help="only measure this one and print its seconds")
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
        say(f"round {number + 1} of {arguments.rounds}")
    report = {"machine": describe(torch.device("cpu")), "seconds_per_pair": best}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report, indent=2) + "\n")
    print(render(report))


if __name__ == "__main__":
    main()
