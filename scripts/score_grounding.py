"""Scores groundings on fresh scenes, every method by one protocol, and writes the table of docs/grounding.md.

    python scripts/score_grounding.py --scenes 500 --out runs/grounding.json            # all methods
    python scripts/score_grounding.py --methods m2ib rise --out runs/some.json          # some of them
    python scripts/score_grounding.py --write runs/grounding.json [runs/some.json ...]  # the table

Scenes have four objects, of which 2, 3 or 4 are named in equal parts. The seed of the scenes is used nowhere else.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sections import markdown_table, write_section

from m2ib_lightning import explain, ground, load_model
from m2ib_lightning.datamodules.scene_grounding import phrase_spans, score_grounding
from m2ib_lightning.datamodules.scenes import SceneExample, SceneSource
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.methods.by_name import METHODS
from m2ib_lightning.models import LoadedModel

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


def main() -> None:
    """Score the methods, or write the table of earlier scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="*", help="methods with their options (default: all without training)")
    parser.add_argument("--targets", nargs="*", default=["difference"], choices=["difference", "alone"])
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("--model", default="scenes")
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--write", type=Path, nargs="+", help="files of --out to write into docs/grounding.md")
    arguments = parser.parse_args()
    if arguments.write:
        write([json.loads(path.read_text()) for path in arguments.write])
        return
    model = load_model(arguments.model)
    methods = arguments.methods or [name for name in METHODS if not METHODS.get(name).trained]
    scores = {}
    for method in methods:
        for target in arguments.targets:
            name = method if target == "difference" else f"{method}, phrase alone"
            scores[name] = score(model, method, target, arguments.scenes, arguments.device)
            print(name, {key: round(value["mean"], 3) for key, value in scores[name].items()}, flush=True)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_text(arguments.out, json.dumps({"scenes": arguments.scenes, "methods": scores}, indent=1))


def score(model: LoadedModel, method: str, target: Any, count: int, device: str | None) -> dict[str, Any]:
    """Return the mean and the 95 % interval of each score, and the cost of a unit."""
    rows: list[dict[str, float]] = []
    for index, named in enumerate(NAMED):
        part = count // len(NAMED) + (index < count % len(NAMED))
        source = SceneSource(SCENES + named, part, objects=4, mentioned=named)
        rows += _scored(model, method, target, [source.example(k) for k in range(part)], device)
    rng = np.random.default_rng(0)
    draws = rng.integers(len(rows), size=(1000, len(rows)))
    result = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        low, high = np.percentile(values[draws].mean(1), [2.5, 97.5])
        result[name] = {"mean": float(values.mean()), "low": float(low), "high": float(high)}
    return result


def _scored(
    model: LoadedModel, method: str, target: Any, examples: list[SceneExample], device: str | None
) -> list[dict[str, float]]:
    pictures = [Image.fromarray(example.scene.image) for example in examples]
    captions = [example.caption.text for example in examples]
    spans = [phrase_spans(example.caption) for example in examples]
    options: Any = {"model": model, "method": method, "batch_size": 16, "device": device}
    start = time.perf_counter()
    explain(pictures, captions, **options)
    middle = time.perf_counter()
    groundings = ground(pictures, captions, units=spans, target=target, **options)
    both = time.perf_counter() - middle
    alone = middle - start
    units = sum(map(len, spans))
    # One unit beyond the caption's own explanation, in explanations of a pair.
    cost = (both - alone) / units / (alone / len(pictures))
    return [
        {**score_grounding(grounding, example), "unit_cost": cost}
        for grounding, example in zip(groundings, examples, strict=True)
    ]


def write(parts: list[dict[str, Any]]) -> None:
    """Write the table and its facts into the document."""
    methods = {name: scores for part in parts for name, scores in part["methods"].items()}
    order = sorted(methods, key=lambda name: -methods[name]["point"]["mean"])
    rows = [
        [f"`{name}`", *(_cell(methods[name][column]) for column in COLUMNS), _cost(methods[name])] for name in order
    ]
    table = markdown_table(["method", *COLUMNS.values(), "cost of a unit"], rows)
    scenes = sorted({part["scenes"] for part in parts})
    facts = f"{', '.join(map(str, scenes))} scenes, torch {torch.__version__.partition('+')[0]}."
    write_section(DOCUMENT, "grounding", f"{table}\n\n{facts}")


def _cell(estimate: dict[str, float]) -> str:
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def _cost(scores: dict[str, Any]) -> str:
    return f"{scores['unit_cost']['mean']:.2f}"


if __name__ == "__main__":
    main()
