"""ROAR+: removes what a method marks as most relevant, fine-tunes on the rest, measures retrieval.

    python scripts/experiments/roar.py --write            # 40 minutes; two minutes for each of --methods

The patches and words that a method ranks highest are removed from all pairs. The model is fine-tuned on 80 % of the
pairs and retrieves the other 20 %. A larger loss of recall is better. ``--write`` puts the table into
docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import t as student

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.evaluation.roar import prepared, removed, retrained_recall
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.methods import METHODS, Context, make_method
from m2ib_lightning.models import load_model
from m2ib_lightning.pairs.pair import PairBatch

sys.path.append(str(Path(__file__).parents[1]))
from sections import markdown_table, write_section

DOCUMENT = Path(__file__).parents[2] / "docs" / "finetuning.md"
WITH_OPTIONS = {"rise": "rise:samples=100"}
NAMES = ["m2ib", *(name for name in METHODS if name != "m2ib" and not METHODS.get(name).trained)]
OPTIONS = FinetuneConfig(lr=3e-4, warmup=4, weight_decay=0.05, max_logit_scale=50.0)


def main() -> None:
    """Train with and without the removed parts, print the table, write it."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=[WITH_OPTIONS.get(name, name) for name in NAMES])
    parser.add_argument("--fractions", type=float, nargs="*", default=[0.05, 0.2])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    losses: dict[tuple[str, float], list[float]] = {}
    for seed in range(arguments.seeds):
        data = scenes(arguments.pairs, seed)
        recall = recall_after_training(data, seed, arguments.epochs)
        print(f"seed {seed}: recall at 1 of complete pairs {recall:.3f}", flush=True)
        for method in arguments.methods:
            maps = explain_batches(method, data, seed)
            for fraction in arguments.fractions:
                preparer = load_model("scenes").preparer
                rest = [removed(batch, r, fraction, preparer) for batch, r in zip(data, maps, strict=True)]
                loss = recall - recall_after_training(rest, seed, arguments.epochs)
                losses.setdefault((method, fraction), []).append(loss)
                print(f"  {method} {fraction}: loss {loss:.3f}", flush=True)
    text = table(losses, arguments.methods, arguments.fractions)
    print(text)
    if arguments.write:
        write_section(DOCUMENT, "roar", text)


def scenes(pairs: int, seed: int) -> list[PairBatch]:
    """Return pairs of scenes, another set for each seed."""
    data = ScenesDataModule(load_model("scenes").preparer, seed=100 + seed, limit=pairs, batch_size=20, truth=True)
    data.setup("fit")
    return list(data.train_dataloader())


def explain_batches(method: str, batches: Sequence[PairBatch], seed: int) -> list[list[Any]]:
    """Return the results of each batch, in the order of its tensors."""
    model = load_model("scenes")
    context = Context(model, resolve(model.preset, model.encoder), model.statistics, seed=seed)
    explain = make_method(method, context)
    with explain.at_work(torch.device("cpu"), torch.float32):
        return [explain(PairBatch(b.pairs, [], b.inputs["image"], b.inputs["text"])) for b in batches]


def recall_after_training(batches: Sequence[PairBatch], seed: int, epochs: int) -> float:
    """Return recall at 1 on 20 % of the pairs after training on the others."""
    items = prepared(batches)
    order = np.random.default_rng(seed).permutation(len(items))
    cut = round(0.8 * len(items))
    train, test = ([items[k] for k in part] for part in (order[:cut], order[cut:]))
    model = load_model("scenes")
    return retrained_recall(model, train, test, options=OPTIONS, epochs=epochs, batch_size=20, seed=seed)


def table(losses: dict[tuple[str, float], list[float]], methods: Sequence[str], fractions: Sequence[float]) -> str:
    """Return the mean loss of recall over seeds, with Student's 95 % interval, sorted by the first fraction."""
    head = ["method", *(f"{fraction:.0%} removed" for fraction in fractions)]
    ranked = sorted(methods, key=lambda method: -float(np.mean(losses[method, fractions[0]])))
    rows = [[method, *(mean_over_seeds(losses[method, fraction]) for fraction in fractions)] for method in ranked]
    return markdown_table(head, rows)


def mean_over_seeds(values: Sequence[float]) -> str:
    """Return ``mean [low, high]``; the interval is NaN for one value."""
    mean, half = float(np.mean(values)), math.nan
    if len(values) > 1:
        half = float(student.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


if __name__ == "__main__":
    main()
