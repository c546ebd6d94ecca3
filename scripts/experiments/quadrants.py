"""Plays the four-quadrant pointing game of FIxLIP with attribution methods, with one to four named objects.

    python scripts/experiments/quadrants.py                       # 50 pictures of scenes, the bundled model
    python scripts/experiments/quadrants.py --model FOLDER --images LABELS --methods m2ib fixlip exclip

Prints a table for each number of named objects: the share of the positive saliency of each object's map that lies in
its quadrant (chance 0.25), whether its highest pixel does, whether the map is higher there than on each other named
object, and the seconds a pair for all maps. ``caption`` uses the map of the whole caption for every object, ``units``
a map of its own for each (``ground``).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import torch

from m2ib_lightning.datamodules.quadrant_sources import FolderQuadrants, QuadrantSource, SceneQuadrants
from m2ib_lightning.m2ib.explainer import resolve
from m2ib_lightning.methods import Context, Method, make_method
from m2ib_lightning.metrics.part_scores import part_scores
from m2ib_lightning.models import LoadedModel, load_model
from m2ib_lightning.pairs.units.unit_rule import UnitRule
from m2ib_lightning.results.attribution import Attribution

METHODS = ("gradcam", "grad_eclip", "rise", "m2ib", "exclip", "fixlip")
COLUMNS = ("part_mass", "part_pointing", "part_right")


def main() -> None:
    """Play and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--images", type=Path, help="folder with a subfolder of images for each label; else scenes")
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--mentioned", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    context = Context(model, resolve(model.preset, model.encoder), model.statistics)
    methods = {name: make_method(name, context) for name in arguments.methods}
    for mentioned in arguments.mentioned:
        source: QuadrantSource
        options = (arguments.seed, arguments.pictures, mentioned)
        if arguments.images is None:
            source = SceneQuadrants(*options, truth=True)
        else:
            source = FolderQuadrants(arguments.images, *options, truth=True)
        print(f"\n{mentioned} named, {len(source)} pictures", flush=True)
        print(f"| method | map | {' | '.join(COLUMNS)} | seconds |\n| --- | --- |{' --- |' * (len(COLUMNS) + 1)}")
        for name, method in methods.items():
            begun = time.perf_counter()
            results = play(method, model, source, torch.device(arguments.device))
            seconds = (time.perf_counter() - begun) / len(source)
            for maps in ("caption", "units"):
                rows = [part_scores(replace(found, units=None) if maps == "caption" else found) for found in results]
                means = [f"{fmean(row[c] for row in rows):.3f}" if c in rows[0] else "" for c in COLUMNS]
                print(f"| {name} | {maps} | {' | '.join(means)} | {seconds:.2f} |", flush=True)


def play(method: Method, model: LoadedModel, source: QuadrantSource, device: torch.device) -> list[Attribution]:
    """Return the results of a method, with a map for each named object."""
    preparer = model.preparer.with_options(fit=None, units=UnitRule())
    results: list[Attribution] = []
    with method.at_work(device, torch.float32):
        for start in range(0, len(source), 8):
            indices = range(start, min(start + 8, len(source)))
            batch = preparer.collate([preparer.prepare(source[k], keep_picture=False) for k in indices])
            results += method(batch.to(device))
    return [result for result in results if result.error is None]


if __name__ == "__main__":
    main()
