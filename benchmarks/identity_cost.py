"""Measures what the identity check costs: the share of a run in which the towers are compared with the model.

    python benchmarks/identity_cost.py                            # the bundled model and ViT-B/32, 100 pairs
    python benchmarks/identity_cost.py --models scenes --pairs 20

The check runs once, on the first two pairs. ViT-B/32 has random weights, which cost what trained ones cost.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from machine import describe
from workload import make_model

from m2ib_lightning import explain, load_model
from m2ib_lightning.datamodules.scenes import SceneSource
from m2ib_lightning.encoder.identity import IdentityCheck


def main() -> None:
    """Measure and print one line per model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["scenes", "ViT-B/32"], help="scenes, ViT-B/32, ViT-B/16, ...")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of the run")
    arguments = parser.parse_args()
    print(describe(torch.device("cpu")))
    for name in arguments.models:
        model = load_model(name) if name == "scenes" else make_model(name, torch.device("cpu"))
        check, total = measure(model, arguments.pairs)
        print(
            f"{name}: {arguments.pairs} pairs in {total:.1f} s, of them {1000 * check:.0f} ms for the check: "
            f"{100 * check / total:.2f} %"
        )


def measure(model: Any, pairs: int) -> tuple[float, float]:
    """Return the seconds of the check, and those of the whole run."""
    seconds = []
    original = IdentityCheck.__call__

    def timed(self: IdentityCheck, *values: Any) -> None:
        start = time.perf_counter()
        original(self, *values)
        seconds.append(time.perf_counter() - start)

    source = SceneSource(0, pairs)
    raws = [source[index] for index in range(pairs)]
    images, captions = [np.asarray(raw.image) for raw in raws], [str(raw.caption) for raw in raws]
    explain(images[:2], captions[:2], model=model)  # warm
    check_type: Any = IdentityCheck
    check_type.__call__ = timed
    try:
        start = time.perf_counter()
        explain(images, captions, model=model)
        return sum(seconds), time.perf_counter() - start
    finally:
        check_type.__call__ = original


if __name__ == "__main__":
    main()
