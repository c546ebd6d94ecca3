"""Compares the trained readout with the optimisation of each pair: speed, and how well the maps localise.

    python fit.py --config readout output_dir=runs/readout
    python scripts/experiments/readout.py runs/readout/model --write

Prints the measured speed-up, the ratio of the operations that torch counts, and the localisation on fresh scenes with
intervals, also for a longer optimisation. Takes 12 minutes on 2 cores. ``--write`` puts the table into
docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from m2ib_lightning.datamodules.scene_scoring import POINT_TOLERANCE
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.evaluation.bootstrap import Estimate
from m2ib_lightning.evaluation.comparison import compare
from m2ib_lightning.finetuning.folder import load_network
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.metrics import pointing_game
from m2ib_lightning.metrics.map_scores import localisation
from m2ib_lightning.models import load_model
from m2ib_lightning.pairs.pair import PairBatch
from m2ib_lightning.results.attribution import Attribution

sys.path.append(str(Path(__file__).parents[1]))
from sections import markdown_table, mean_and_interval, write_section

DOCUMENT = Path(__file__).parents[2] / "docs" / "finetuning.md"
POINTING = "image_pointing"
MEASURES = ("image_rank", "image_iou", "image_auroc", "image_ap", "text_auroc")
OPTIMISED, READ = "m2ib", "readout"
CPU = torch.device("cpu")
Estimates = dict[str, Estimate]
"""Estimates by method."""


def main() -> None:
    """Measure, print the table, write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=2, help="seed of the scenes; another than that of the training")
    parser.add_argument("--longer", default="m2ib:steps=30", help="a longer optimisation, to compare with")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    model = load_model(str(arguments.model))
    trained = load_network(model).settings
    context = Context(model, resolve(model.preset, model.encoder), model.statistics)
    data = ScenesDataModule(model.preparer, seed=arguments.seed, limit=arguments.scenes, batch_size=16, truth=True)
    data.setup("fit")
    batches = list(data.train_dataloader())
    methods = {name: make_method(name, context) for name in (OPTIMISED, READ)}
    costs = {name: cost(method, batches[:4]) for name, method in methods.items()}
    ratios = {unit: costs[OPTIMISED][unit] / costs[READ][unit] for unit in ("seconds", "operations")}
    lines = [
        f"`{name}`: {values['seconds'] * 1e3:.2f} ms and {values['operations'] / 1e9:.3f} GFLOP a pair."
        for name, values in costs.items()
    ]
    lines.append(f"Measured speed-up {ratios['seconds']:.1f}, ratio of operations {ratios['operations']:.1f}.")
    lines.append(f"Readout at image layer {trained.image.layer} and text layer {trained.text.layer}.")
    names = [OPTIMISED, READ, arguments.longer]
    text = "\n".join(f"- {line}" for line in lines) + "\n\n" + table(scores(context, names, batches), names)
    print(text)
    if arguments.write:
        write_section(DOCUMENT, "readout", text)


def cost(method: Method, batches: list[PairBatch]) -> dict[str, float]:
    """Return the seconds and floating-point operations per pair."""
    pairs = sum(map(len, batches))
    with method.at_work(CPU, torch.float32):
        method(batches[0])
        start = time.perf_counter()
        for batch in batches:
            method(batch)
        seconds = time.perf_counter() - start
        with FlopCounterMode(display=False) as counter:
            for batch in batches:
                method(batch)
    return {"seconds": seconds / pairs, "operations": counter.get_total_flops() / pairs}


def scores(context: Context, names: list[str], batches: list[PairBatch]) -> dict[str, tuple[Estimates, Estimates]]:
    """Return by measure the mean of each method, and its difference from the first method."""
    rows, near = [], []
    for name in names:
        method = make_method(name, context)
        with method.at_work(CPU, torch.float32):
            for result in (result for batch in batches for result in method(batch)):
                rows += [(result.pair.key, name, 0, *score) for score in localisation(result).items()]
                near.append((result.pair.key, name, 0, POINTING, pointing_near(result)))
    measures = by_measure(rows, names)
    return {
        POINTING: measures[POINTING],
        f"pointing within {POINT_TOLERANCE} px": by_measure(near, names)[POINTING],
        **{measure: measures[measure] for measure in MEASURES},
    }


def by_measure(rows: list[tuple[Any, ...]], names: list[str]) -> dict[str, tuple[Estimates, Estimates]]:
    """Return by measure the mean of each method, and its difference from the first method."""
    import pandas as pd

    comparison = compare(pd.DataFrame(rows, columns=["key", "method", "seed", "measure", "value"]), names, names[0])
    return {name: (comparison.estimates[name], comparison.differences[name]) for name in comparison.estimates}


def pointing_near(result: Attribution) -> float:
    """Return the score of the pointing game with the tolerance of the bundled model's card."""
    truth = result.pair.truth
    assert truth is not None
    assert truth.mask is not None
    saliency = torch.from_numpy(result.saliency_at(*result.pair.image_size))
    return float(pointing_game(saliency, torch.from_numpy(truth.mask), POINT_TOLERANCE))


def table(measures: dict[str, tuple[Estimates, Estimates]], names: list[str]) -> str:
    """Return the table, a row per measure."""
    head = ["measure", *names, *(f"{name} - {names[0]}" for name in names[1:])]
    lines = []
    for measure, (means, differences) in measures.items():
        cells = [means[name] for name in names] + [differences[name] for name in names[1:]]
        lines.append([measure.replace("_", " "), *map(mean_and_interval, cells)])
    return markdown_table(head, lines)


if __name__ == "__main__":
    main()
