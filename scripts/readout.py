"""The trained readout beside the optimisation of each pair: how fast, and how well the maps point.

    python fit.py --config readout output_dir=runs/readout
    python scripts/readout.py runs/readout/model --write

Prints the measured speed-up and the ratio of the operations that torch counts, and the localisation of maps on fresh
scenes with intervals. ``--write`` puts them into docs/finetuning.md.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from write_evaluation import write_section

from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.evaluation.comparison import Estimate, compare
from m2ib_lightning.evaluation.evaluator import Evaluator
from m2ib_lightning.explainer import resolve
from m2ib_lightning.finetuning.folder import load_network
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.models import load_model
from m2ib_lightning.pairs import PairBatch

DOCUMENT = Path(__file__).parent.parent / "docs" / "finetuning.md"
MEASURES = ("image_pointing", "image_rank", "image_iou", "image_auroc", "image_ap", "text_auroc")
CPU = torch.device("cpu")


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2, help="of the scenes: not those it was trained on")
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    model = load_model(str(given.model))
    trained = load_network(model).settings
    context = Context(model, resolve(model.preset, model.encoder), model.statistics)
    data = ScenesDataModule(model.preparer, seed=given.seed, limit=given.scenes, batch_size=16, truth=True)
    data.setup("fit")
    batches = list(data.train_dataloader())
    methods = {name: make_method(name, context) for name in ("m2ib", "readout")}
    found = {name: cost(method, batches[:4]) for name, method in methods.items()}
    ratios = {what: found["m2ib"][what] / found["readout"][what] for what in ("seconds", "operations")}
    lines = [
        f"`{name}`: {values['seconds'] * 1e3:.2f} ms and {values['operations'] / 1e9:.3f} GFLOP a pair."
        for name, values in found.items()
    ]
    lines.append(f"Measured speed-up {ratios['seconds']:.1f}, ratio of operations {ratios['operations']:.1f}.")
    lines.append(f"Readout at image layer {trained.image.layer} and text layer {trained.text.layer}.")
    text = "\n".join(f"- {line}" for line in lines) + "\n\n" + table(scored(context, batches, model))
    print(text)
    if given.write:
        write_section(DOCUMENT, "readout", text)


def cost(method: Method, batches: list[PairBatch]) -> dict[str, float]:
    """Seconds and floating-point operations of a pair."""
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


def scored(context: Context, batches: list[PairBatch], model: Any) -> dict[str, dict[str, Estimate]]:
    """By measure, then by method; the differences from ``m2ib`` under ``readout - m2ib``."""
    import pandas as pd

    names = ["m2ib", "readout"]
    evaluator = Evaluator(context, names, ["localisation"], model.preparer, probed=0, seeds=1)
    rows = []
    with evaluator.at_work(CPU, torch.float32):
        for batch in batches:
            rows += [(r.pair.key, *score) for r in evaluator(batch) for score in r.scores]
    scores = pd.DataFrame(rows, columns=["key", "method", "seed", "measure", "value"])
    comparison = compare(scores, names, "m2ib")
    return {
        measure: comparison.estimates[measure] | {"readout - m2ib": comparison.differences[measure]["readout"]}
        for measure in MEASURES
    }


def table(found: dict[str, dict[str, Estimate]]) -> str:
    """Markdown."""
    names = list(next(iter(found.values())))
    head = ["measure", *names]
    rows = [[m.replace("_", " "), *(shown(found[m][name]) for name in names)] for m in found]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def shown(estimate: Estimate) -> str:
    """Mean and interval."""
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


if __name__ == "__main__":
    main()
