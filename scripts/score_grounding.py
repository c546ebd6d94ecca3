"""Scores groundings on fresh scenes, every method by one protocol, and writes the table of docs/grounding.md.

    python scripts/score_grounding.py --scenes 500 --out runs/grounding.json            # all methods
    python scripts/score_grounding.py --methods m2ib rise --out runs/some.json          # some of them
    python scripts/score_grounding.py --moves --out runs/moves.json                     # does the map follow the name?
    python scripts/score_grounding.py --cost --scenes 12 --out runs/cost.json           # what a unit costs
    python scripts/score_grounding.py --write runs/grounding.json [runs/some.json ...]  # the table

Scenes have four objects, of which 2, 3 or 4 are named in equal parts; with --moves three, of which one is named, and
then another. The seeds of the scenes are used nowhere else.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sections import markdown_table, write_section

from m2ib_lightning import explain, ground, load_model
from m2ib_lightning.datamodules.scene_grounding import phrase_spans, score_grounding
from m2ib_lightning.datamodules.scene_scoring import POINT_TOLERANCE
from m2ib_lightning.datamodules.scenes import SceneExample, SceneSource
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.methods.by_name import METHODS
from m2ib_lightning.metrics import pointing_game, spearman
from m2ib_lightning.models import LoadedModel
from m2ib_lightning.scenes import UNSAID
from m2ib_lightning.scenes import describe as describe_scene
from m2ib_lightning.scenes.scene_captions import Caption

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from machine import describe

SCENES = 2027
"""Seed of the scenes: no other script uses it."""

DOCUMENT = Path(__file__).parents[1] / "docs" / "grounding.md"
NAMED = (2, 3, 4)
COLUMNS = {
    "point": "points at its object",
    "right_object": "right object of all",
    "right_unit": "region to unit",
    "diagonal": "share on its own object",
    "whole_point": "whole caption: points",
    "whole_right_object": "whole caption: right object",
}
MOVES = {
    "whole_point": "whole caption: points at the new object",
    "whole_correlation": "whole caption: correlation with the old map",
    "unit_point": "phrase: points at the new object",
    "unit_correlation": "phrase: correlation with the old map",
}


def main() -> None:
    """Score the methods, or write the table of earlier scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", help="methods with their options (default: all without training)")
    parser.add_argument("--targets", nargs="*", default=["difference"], choices=["difference", "alone"])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--device")
    parser.add_argument("--moves", action="store_true", help="what naming another object does, in place of the units")
    parser.add_argument("--cost", action="store_true", help="seconds of a pair and of a unit, in place of the units")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path, nargs="+", help="files of --out to write into docs/grounding.md")
    arguments = parser.parse_args()
    if arguments.write:
        parts = [json.loads(path.read_text()) for path in arguments.write]
        write(parts)
        for part in parts:
            if part["kind"] == "cost":
                write_cost(part)
        return
    model = load_model(arguments.model)
    methods = arguments.methods or [name for name in METHODS if not METHODS.get(name).trained]
    kind = "moves" if arguments.moves else "cost" if arguments.cost else "grounding"
    scores: dict[str, Any] = {}
    for method in methods:
        for target in arguments.targets if kind == "grounding" else [None]:
            name = f"{method}, phrase alone" if target == "alone" else method
            if kind == "moves":
                scores[name] = estimates(moves(model, method, arguments.scenes, arguments.device))
            elif kind == "cost":
                scores[name] = cost(model, method, arguments.scenes)
            else:
                scores[name] = score(model, method, target, arguments.scenes, arguments.device)
            print(name, json.dumps(scores[name]), flush=True)
            if arguments.out is not None:  # after each method: a run that is stopped keeps what it has
                arguments.out.parent.mkdir(parents=True, exist_ok=True)
                content = {"kind": kind, "scenes": arguments.scenes, "machine": _machine(arguments.device)}
                content["methods"] = scores
                atomic_write_text(arguments.out, json.dumps(content, indent=1))


def score(model: LoadedModel, method: str, target: Any, count: int, device: str | None) -> dict[str, Any]:
    """Return the mean and the 95 % interval of each score, and the cost of a unit."""
    rows: list[dict[str, float]] = []
    for index, named in enumerate(NAMED):
        part = count // len(NAMED) + (index < count % len(NAMED))
        source = SceneSource(SCENES + named, part, objects=4, mentioned=named)
        rows += _scored(model, method, target, [source.example(k) for k in range(part)], device)
    return estimates(rows)


def estimates(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Return the mean of each score over the scenes, with its 95 % interval by the bootstrap."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(rows), size=(1000, len(rows)))
    result = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        low, high = np.percentile(np.nanmean(values[draws], 1), [2.5, 97.5])
        result[name] = {"mean": float(np.nanmean(values)), "low": float(low), "high": float(high)}
    return result


def _scored(
    model: LoadedModel, method: str, target: Any, examples: list[SceneExample], device: str | None
) -> list[dict[str, float]]:
    pictures = [Image.fromarray(example.scene.image) for example in examples]
    captions = [example.caption.text for example in examples]
    spans = [phrase_spans(example.caption) for example in examples]
    options: Any = {"model": model, "method": method, "batch_size": 16, "device": device}
    groundings = ground(pictures, captions, units=spans, target=target, **options)
    return [score_grounding(grounding, example) for grounding, example in zip(groundings, examples, strict=True)]


def cost(model: LoadedModel, method: str, count: int) -> dict[str, Any]:
    """Return what a pair and each further unit of it cost, in seconds of one CPU core.

    The clock is the process's own, so that other work on the machine does not count.
    """
    source = SceneSource(SCENES, count, objects=4, mentioned=4)
    examples = [source.example(k) for k in range(count)]
    pictures = [Image.fromarray(example.scene.image) for example in examples]
    captions = [example.caption.text for example in examples]
    options: Any = {"model": model, "method": method, "batch_size": count}
    explain(pictures[:1], captions[:1], **options)  # loads what is loaded once
    start = time.process_time()
    explain(pictures, captions, **options)
    middle = time.process_time()
    ground(pictures, captions, units=[phrase_spans(example.caption) for example in examples], **options)
    alone, both = middle - start, time.process_time() - middle
    return {"pair": alone / count, "unit": (both - alone) / (4 * count)}


def moves(model: LoadedModel, method: str, count: int, device: str | None) -> list[dict[str, float]]:
    """Name one object of each scene, then another; return how far the map follows.

    Returns:
        For each scene: whether the second map points at the second object, and the Spearman correlation of both maps
        over the patches; for the whole caption, and for the caption's phrase as a unit.
    """
    source = SceneSource(SCENES + 1, count, objects=3)
    examples = [source.example(k) for k in range(count)]
    captions = [_captions(k, example) for k, example in enumerate(examples)]
    options: Any = {"model": model, "method": method, "batch_size": 16, "device": device}
    pictures = [Image.fromarray(example.scene.image) for example in examples]
    first, second = (
        ground(pictures, [c[which].text for c in captions], units=[phrase_spans(c[which]) for c in captions], **options)
        for which in (0, 1)
    )
    rows = []
    for example, one, other in zip(examples, first, second, strict=True):
        target = torch.from_numpy(example.scene.masks[1] > 0.5)
        heat, unit = torch.from_numpy(other.whole.image_heatmap), torch.from_numpy(other.heatmap(0))
        rows.append(
            {
                "whole_point": float(pointing_game(heat, target, POINT_TOLERANCE)),
                "whole_correlation": _spearman(one.whole.image_saliency, other.whole.image_saliency),
                "unit_point": float(pointing_game(unit, target, POINT_TOLERANCE)),
                "unit_correlation": _spearman(one.maps[0], other.maps[0]),
            }
        )
    return rows


def _captions(index: int, example: SceneExample) -> tuple[Caption, Caption]:
    """Two captions in the same words around the phrase: of the first object, and of the second."""
    named = [obj._replace(size=UNSAID) for obj in example.scene.objects[:2]]
    first, second = (describe_scene(np.random.default_rng([SCENES, index]), [phrase]) for phrase in named)
    return first, second


def _spearman(a: Any, b: Any) -> float:
    return float(spearman(torch.from_numpy(a.ravel()), torch.from_numpy(b.ravel())))


def write(parts: list[dict[str, Any]]) -> None:
    """Write the tables and their facts into the document."""
    for kind, columns, first in (("grounding", COLUMNS, "point"), ("moves", MOVES, "unit_point")):
        chosen = [part for part in parts if part["kind"] == kind]
        methods = {name: scores for part in chosen for name, scores in part["methods"].items()}
        if not methods:
            continue
        order = sorted(methods, key=lambda name: -methods[name][first]["mean"])
        rows = [[f"`{name}`", *(_cell(methods[name][column]) for column in columns)] for name in order]
        head = ["method", *columns.values()]
        facts = {f"{part['scenes']} scenes, {part['machine']}" for part in chosen}
        write_section(DOCUMENT, kind, f"{markdown_table(head, rows)}\n\n{'; '.join(sorted(facts))}.")


def write_cost(part: dict[str, Any]) -> None:
    """Write the table of costs into the document."""
    rows = [
        [f"`{name}`", f"{costs['pair']:.2f}", f"{costs['unit']:.2f}", f"{costs['unit'] / costs['pair']:.2f}"]
        for name, costs in part["methods"].items()
    ]
    head = ["method", "a pair, seconds", "a further unit, seconds", "unit / pair"]
    write_section(DOCUMENT, "cost", f"{markdown_table(head, rows)}\n\n{part['scenes']} scenes, {part['machine']}.")


def _machine(device: str | None) -> str:
    machine = describe(torch.device(device or "cpu"))
    return f"{machine['name']}, torch {machine['torch']}"


def _cell(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


if __name__ == "__main__":
    main()
