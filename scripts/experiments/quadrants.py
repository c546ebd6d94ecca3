"""Plays the four-quadrant pointing game of FIxLIP with attribution methods, with one to four named objects.

    python scripts/experiments/quadrants.py --write               # scenes, the bundled model: docs/evaluation.md
    python scripts/experiments/quadrants.py --model FOLDER --images LABELS --methods m2ib fixlip exclip

Prints a table: for each number of named objects the share of the positive saliency of each object's map that lies in
its quadrant (chance 0.25); for the largest number, whether the map's highest pixel does, and whether the map is higher
there than on each other named object. *The whole caption* uses its map for every object, *each object* a map of its own
(``ground``).
"""

from __future__ import annotations

import argparse
import sys
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

sys.path += [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "benchmarks")]
from machine import describe
from sections import markdown_table, write_section

METHODS = ("m2ib", "gradcam", "grad_eclip", "rise", "exclip", "fixlip")
MAPS = ("the whole caption", "each object")
DOCUMENT = Path(__file__).parents[2] / "docs" / "evaluation.md"

Scores = dict[tuple[str, str], dict[int, dict[str, float]]]
"""For each method and kind of map, and each number of named objects: the mean of each score."""


def main() -> None:
    """Play, print the table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--images", type=Path, help="folder with a subfolder of images for each label; else scenes")
    parser.add_argument("--pictures", type=int, default=40)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--mentioned", type=int, nargs="+", default=[1, 2, 3, 4])
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--write", action="store_true", help="write the table into docs/evaluation.md, too")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    context = Context(model, resolve(model.preset, model.encoder), model.statistics)
    methods = {name: make_method(name, context) for name in arguments.methods}
    device = torch.device(arguments.device)
    scores: Scores = {(name, maps): {} for name in methods for maps in MAPS}
    for mentioned in arguments.mentioned:
        source = _source(arguments, mentioned)
        for name, method in methods.items():
            results = play(method, model, source, device)
            for maps in MAPS:
                scores[name, maps][mentioned] = means(results, maps)
            print(f"{mentioned} named, {name}: {scores[name, MAPS[1]][mentioned]}", file=sys.stderr, flush=True)
    pictures = f"{arguments.pictures} pictures (seed {arguments.seed}) for each number of named objects"
    machine = describe(device)
    text = f"{table(scores)}\n\n{pictures}, model {arguments.model}. {machine['name']}, torch {machine['torch']}."
    print(text)
    if arguments.write:
        write_section(DOCUMENT, "quadrants", text)


def _source(arguments: argparse.Namespace, mentioned: int) -> QuadrantSource:
    options = (arguments.seed, arguments.pictures, mentioned)
    if arguments.images is None:
        return SceneQuadrants(*options, truth=True)
    return FolderQuadrants(arguments.images, *options, truth=True)


def means(results: list[Attribution], maps: str) -> dict[str, float]:
    """Return the mean of each score over the pictures, of the maps of the caption or those of the objects."""
    chosen = [replace(result, units=None) if maps == MAPS[0] else result for result in results]
    rows = [part_scores(result) for result in chosen]
    return {name: fmean(row[name] for row in rows) for name in rows[0]}


def table(scores: Scores) -> str:
    """Return the table, a row for each method and kind of map."""
    numbers = sorted({mentioned for means in scores.values() for mentioned in means})
    last = numbers[-1]
    head = ["method, map", *(f"{number} named" for number in numbers)]
    rows = []
    for (name, maps), by_number in scores.items():
        cells = [by_number[number]["part_mass"] for number in numbers]
        if last > 1:
            cells += [by_number[last]["part_pointing"], by_number[last]["part_right"]]
        rows.append([f"`{name}`, {maps}", *(f"{cell:.3f}" for cell in cells)])
    if last > 1:
        head += [f"highest pixel, {last} named", f"right of {last}"]
    return markdown_table(head, rows)


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
