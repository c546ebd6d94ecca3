"""Measures what a bottleneck costs in training: time and memory of a step, by mask and precision.

    python benchmarks/finetune_speed.py                            # ViT-B/32, batch 8, on a CPU
    python benchmarks/finetune_speed.py --device cuda --batch 256

Random weights and pictures, captions of 12 tokens, the contrastive loss; the real module and Trainer train the complete
model. The time of a variant is its fastest step.
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
from machine import PeakMemory, describe, log
from torch.utils.data import DataLoader
from workload import CAPTION, SHAPES, make_model, make_pairs

from m2ib_lightning.config import FinetuneConfig, Mask
from m2ib_lightning.finetuning import IBClipModule
from m2ib_lightning.pairs.pair import PairBatch

MASKS: dict[str, Mask | None] = {"none": None, "channel": "channel", "readout": "readout"}
"""The mask of each variant; None for no bottleneck."""

_WARM_UP = 3
"""Steps that are not measured."""


class Clock(Callback):
    """Stores the time at the end of each step, when the device has finished it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Store the time."""
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def measure(
    shape: str, batch: PairBatch, mask: Mask | None, precision: Any, steps: int, device: torch.device
) -> tuple[float, int]:
    """Return the seconds of the fastest step, and the peak of memory in bytes."""
    options = FinetuneConfig(mask=mask or "channel", lr=1e-6)
    module = IBClipModule(make_model(shape, torch.device("cpu")), options, enabled=mask is not None)
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
    batches: Any = [batch] * (steps + _WARM_UP)
    memory = PeakMemory(device)
    trainer.fit(module, DataLoader(batches, batch_size=None, collate_fn=lambda one: one))
    return min(after - before for before, after in pairwise(clock.times[_WARM_UP - 1 :])), memory.read()


def main() -> None:
    """Measure and print the table."""
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
    default = ["32-true", "bf16-mixed", "16-mixed"] if device.type == "cuda" else ["32-true"]
    precisions = arguments.precisions or default

    model = make_model(arguments.shape, torch.device("cpu"))
    rng = np.random.default_rng(0)
    pairs = [
        replace(pair, uri=pair.key, caption=" ".join(rng.permutation(CAPTION.split())))
        for pair in make_pairs(model, arguments.batch)
    ]
    preparer = model.preparer
    batch = preparer.collate([preparer.prepare(pair, keep_picture=False) for pair in pairs])
    costs = {}
    for name, precision in product(MASKS, precisions):
        log(f"{name}, {precision}")
        costs[name, precision] = measure(arguments.shape, batch, MASKS[name], precision, arguments.steps, device)
    print(f"{describe(device)['name']}, torch {torch.__version__}, {arguments.shape}, batch {arguments.batch}\n")
    print("| bottleneck | precision | s/step | pairs/s | of none, 32-true | peak memory |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    base = costs["none", precisions[0]][0]
    for (name, precision), (seconds, peak) in costs.items():
        rate = arguments.batch / seconds
        print(f"| {name} | {precision} | {seconds:.4f} | {rate:.0f} | {seconds / base:.2f} | {peak / 2**20:.0f} MiB |")


if __name__ == "__main__":
    main()
