"""What a bottleneck costs in training: seconds and memory of a step, without one, with each mask, in each precision.

    python benchmarks/finetune_speed.py                            # ViT-B/32, batch 8, on a CPU
    python benchmarks/finetune_speed.py --device cuda --batch 256

Random weights and pictures, captions of 12 tokens, the contrastive loss, all of the model trained, by the real module
and Trainer. Of each way the best step counts.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from dataclasses import replace
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from machine import PeakMemory, describe, say
from torch.utils.data import DataLoader
from workload import CAPTION, SHAPES, make_model, make_pairs

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.finetuning import IBClipModule
from m2ib_lightning.pairs.pair import PairBatch

WAYS = {"none": {"enabled": False}, "channel": {"mask": "channel"}, "readout": {"mask": "readout"}}
_WARM = 3
"""Steps that do not count."""


class Clock(Callback):
    """Notes when each step begins, with the device's work done."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """A step is over."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def measure(
    shape: str, batch: PairBatch, way: str, precision: str, steps: int, device: torch.device
) -> tuple[float, int]:
    """The best step's seconds, and the peak of memory in bytes."""
    options = FinetuneConfig(mask=WAYS[way].get("mask", "channel"), lr=1e-6)
    module = IBClipModule(make_model(shape, torch.device("cpu")), options, enabled=WAYS[way].get("enabled", True))
    clock = Clock()
    trainer = Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=1,
        precision=precision,
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[clock],
    )
    batches: Any = [batch] * (steps + _WARM)
    memory = PeakMemory(device)
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda one: one))
    return min(after - before for before, after in pairwise(clock.times[_WARM - 1 :])), memory.read()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="ViT-B/32", choices=SHAPES)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--precisions", nargs="+", default=None)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = torch.device(arguments.device)
    usual = ["32-true", "bf16-mixed", "16-mixed"] if device.type == "cuda" else ["32-true"]
    precisions = arguments.precisions or usual

    model = make_model(arguments.shape, torch.device("cpu"))
    rng = np.random.default_rng(0)
    pairs = [
        replace(pair, uri=pair.key, caption=" ".join(rng.permutation(CAPTION.split())))
        for pair in make_pairs(model, arguments.batch)
    ]
    preparer = model.preparer
    batch = preparer.collate([preparer.prepare(pair, keep_picture=False) for pair in pairs])
    found = {}
    for way, precision in product(WAYS, precisions):
        say(f"{way}, {precision}")
        found[way, precision] = measure(arguments.shape, batch, way, precision, arguments.steps, device)
    print(f"{describe(device)['name']}, torch {torch.__version__}, {arguments.shape}, batch {arguments.batch}\n")
    print("| bottleneck | precision | s/step | pairs/s | of none, 32-true | peak memory |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    base = found["none", precisions[0]][0]
    for (way, precision), (seconds, peak) in found.items():
        rate = arguments.batch / seconds
        print(f"| {way} | {precision} | {seconds:.4f} | {rate:.0f} | {seconds / base:.2f} | {peak / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
