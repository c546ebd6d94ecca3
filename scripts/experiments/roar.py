"""ROAR+: remove what a method marks as most relevant, fine-tune on what is left, measure retrieval.

    python scripts/experiments/roar.py --write            # 40 minutes; two minutes for each of --methods

Each method's highest patches and words are removed from all pairs, the model is fine-tuned on 80 % of them and
retrieves the other 20 %. A larger loss of recall is better. ``--write`` puts the table into docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from write_evaluation import write_section

from m2ib_lightning.config import FinetuneConfig
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.evaluation.roar import prepared, removed, retrained_recall
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.methods import METHODS, Context, make_method
from m2ib_lightning.models import load_model
from m2ib_lightning.pairs.pair import PairBatch

DOCUMENT = Path(__file__).parents[2] / "docs" / "finetuning.md"
OPTIONED = {"rise": "rise:samples=100"}
NAMES = ["m2ib", *(name for name in METHODS if name != "m2ib" and not METHODS.get(name).trained)]
OPTIONS = FinetuneConfig(lr=3e-4, warmup=4, weight_decay=0.05, max_logit_scale=50.0)


def main() -> None:
    """Train and measure."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", default=[OPTIONED.get(name, name) for name in NAMES])
    parser.add_argument("--fractions", type=float, nargs="*", default=[0.05, 0.2])
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    losses: dict[tuple[str, float], list[float]] = {}
    for seed in range(given.seeds):
        data = scenes(given.pairs, seed)
        whole = measure(data, seed, given.epochs)
        print(f"seed {seed}: recall at 1 of whole pairs {whole:.3f}", flush=True)
        for method in given.methods:
            maps = explained(method, data, seed)
            for fraction in given.fractions:
                left = [removed(b, r, fraction, load_model("scenes").preparer) for b, r in zip(data, maps, strict=True)]
                loss = whole - measure(left, seed, given.epochs)
                losses.setdefault((method, fraction), []).append(loss)
                print(f"  {method} {fraction}: loss {loss:.3f}", flush=True)
    text = table(losses, given.methods, given.fractions)
    print(text)
    if given.write:
        write_section(DOCUMENT, "roar", text)


def scenes(pairs: int, seed: int) -> list[PairBatch]:
    """Pairs of a set of scenes of its own for each seed."""
    data = ScenesDataModule(load_model("scenes").preparer, seed=100 + seed, limit=pairs, batch_size=20, truth=True)
    data.setup("fit")
    return list(data.train_dataloader())


def explained(method: str, batches: Sequence[PairBatch], seed: int) -> list[list]:
    """The maps of each batch, in the order of its tensors."""
    model = load_model("scenes")
    made = make_method(method, Context(model, resolve(model.preset, model.encoder), model.statistics, seed=seed))
    with made.at_work(torch.device("cpu"), torch.float32):
        return [made(PairBatch(b.pairs, [], b.inputs["image"], b.inputs["text"])) for b in batches]


def measure(batches: Sequence[PairBatch], seed: int, epochs: int) -> float:
    """Recall after training on 80 %."""
    items = prepared(batches)
    order = np.random.default_rng(seed).permutation(len(items))
    cut = round(0.8 * len(items))
    train, test = ([items[k] for k in part] for part in (order[:cut], order[cut:]))
    model = load_model("scenes")
    return retrained_recall(model, train, test, options=OPTIONS, epochs=epochs, batch_size=20, seed=seed)


def table(losses: dict[tuple[str, float], list[float]], methods: Sequence[str], fractions: Sequence[float]) -> str:
    """Mean loss of recall over seeds, with Student's 95 % interval; the best at the first fraction first."""
    head = ["method", *(f"{fraction:.0%} removed" for fraction in fractions)]
    ranked = sorted(methods, key=lambda method: -float(np.mean(losses[method, fractions[0]])))
    rows = [[method, *(shown(losses[method, fraction]) for fraction in fractions)] for method in ranked]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def shown(values: Sequence[float]) -> str:
    """Mean and interval."""
    mean = float(np.mean(values))
    few = len(values) < 2
    quantile = float("nan") if few else float(student.ppf(0.975, len(values) - 1))
    half = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5 if not few else float("nan")
    return f"{mean:.3f} [{mean - half:.3f}, {mean + half:.3f}]"


if __name__ == "__main__":
    main()
