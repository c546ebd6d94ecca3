"""Writes the measured parts of docs/evaluation.md: tables, plots, and the methods that score better than M2IB.

    python fit.py --config evaluate output_dir=runs/evaluate
    python fit.py --config ablation seed=1 output_dir=runs/ablation
    python scripts/write_evaluation.py --run runs/evaluate --ablation runs/ablation

Each run is written if it is given.

Needs matplotlib, which Captum installs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from sections import markdown_table, write_section

from m2ib_lightning.evaluation.bootstrap import FEWEST
from m2ib_lightning.evaluation.measures import MEASURES

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from machine import describe

DOCUMENT = Path(__file__).parents[1] / "docs" / "evaluation.md"
BASELINE = "m2ib"
ABLATED = ("image_pointing", "image_mass", "image_rank", "image_best_iou", "image_auroc", "image_ap", "text_auroc")


def main() -> None:
    """Write all sections and plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--ablation", type=Path)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    arguments = parser.parse_args()
    plots = arguments.document.parent / "evaluation"
    plots.mkdir(exist_ok=True)
    if arguments.run is not None:
        summary = json.loads((arguments.run / "summary.json").read_text())
        write_section(arguments.document, "table", (arguments.run / "table.md").read_text())
        write_section(arguments.document, "facts", facts(arguments.run, summary))
        write_section(arguments.document, "better", better_than_baseline(summary["methods"]))
        plot_cascade(summary["cascade"], plots / "randomised.png")
    if arguments.ablation is not None:
        ablation = json.loads((arguments.ablation / "summary.json").read_text())["methods"]
        write_section(arguments.document, "ablation", ablation_table(ablation))
        plot_ablation(ablation, plots / "ablation.png")


def facts(run: Path, summary: dict[str, Any]) -> str:
    """Return one sentence on the size and duration of the run, and the machine."""
    machine = describe(torch.device("cpu"))
    ranks = json.loads(max((run / "launches").glob("*/launch.json")).read_text())["world_size"]
    measures = summary["methods"].values()
    probed = max((m["image_sensitivity"]["pairs"] for m in measures if "image_sensitivity" in m), default=0)
    return (
        f"{summary['pairs_done']} pairs, {probed or 'none'} of them probed, {len(summary['methods'])} methods, "
        f"{summary['seconds'] / 60:.1f} minutes on {ranks} ranks. {machine['name']}, torch {machine['torch']}."
    )


def better_than_baseline(methods: dict[str, Any]) -> str:
    """Return a table of the methods that are significantly better than the baseline, by measure."""
    rows = []
    for measure, about in MEASURES.items():
        compared = any(f"minus_{BASELINE}" in scores.get(measure, {}) for scores in methods.values())
        if about.better in (None, "zero") or not compared or about.group == "time":
            continue
        winners = []
        for method, scores in methods.items():
            difference = scores.get(measure, {}).get(f"minus_{BASELINE}")
            if difference and _is_better(difference, about.better):
                low, mean, high = (difference[name] for name in ("low", "mean", "high"))
                winners.append(f"`{method}` ({mean:+.3f} [{low:+.3f}, {high:+.3f}])")
        rows.append([measure.replace("_", " "), ", ".join(winners) or "none"])
    return markdown_table(["measure", "does better than `m2ib`, by (95 % interval)"], rows)


def _is_better(difference: dict[str, Any], better: str) -> bool:
    if difference["low"] is None or difference["pairs"] < FEWEST:
        return False
    return bool(difference["low"] > 0 if better == "higher" else difference["high"] < 0)


def ablation_table(methods: dict[str, Any]) -> str:
    """Return the ablation's table, a row per setting."""
    head = ["setting", *(name.replace("_", " ") for name in ABLATED)]
    rows = [[_setting(method), *(_mean(scores[name]) for name in ABLATED)] for method, scores in methods.items()]
    return markdown_table(head, rows)


def _mean(estimate: dict[str, Any]) -> str:
    """The mean, with a star if it differs significantly from the baseline's."""
    difference = estimate.get(f"minus_{BASELINE}")
    differs = difference is not None and any(_is_better(difference, better) for better in ("higher", "lower"))
    return f"{estimate['mean']:.3f}" + (r"\*" if differs else "")


def _setting(method: str) -> str:
    return method.removeprefix("m2ib").removeprefix(":").replace(",", ", ") or "as the model recommends"


def plot_cascade(cascade: dict[str, Any], path: Path) -> None:
    """Draw the correlation with the original map against the share of random weights."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    colours: Any = pyplot.get_cmap("tab20")
    for axis, tower in zip(axes, ("image", "text"), strict=True):
        axis.set_prop_cycle(color=colours.colors)
        for method, stages in cascade.get(tower, {}).items():
            percents = [0, *map(int, stages)]
            width = 2.5 if method == BASELINE else 1.0
            axis.plot(percents, [1.0, *(stage["mean"] for stage in stages.values())], linewidth=width, label=method)
        axis.axhline(0.3, color="grey", linestyle=":", linewidth=1)
        axis.set(title=tower, xlabel="random weights, from the top (%)", ylim=(-0.7, 1.05))
    axes[0].set_ylabel("Spearman correlation with the original map")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_ablation(methods: dict[str, Any], path: Path) -> None:
    """Draw the settings' means and intervals, a panel per measure."""
    from matplotlib import pyplot

    names = list(methods)
    figure, axes = pyplot.subplots(
        1, len(ABLATED), figsize=(2.1 * len(ABLATED) + 3, 0.28 * len(names) + 1), sharey=True
    )
    for axis, measure in zip(axes, ABLATED, strict=True):
        for place, method in enumerate(names):
            estimate = methods[method][measure]
            colour = "C1" if method == BASELINE else "C0"
            axis.plot([estimate["low"], estimate["high"]], [place, place], color=colour, linewidth=1.5)
            axis.plot(estimate["mean"], place, "o", color=colour, markersize=4)
        axis.axvline(methods[BASELINE][measure]["mean"], color="C1", linewidth=0.6, linestyle=":")
        axis.set_title(measure.replace("_", " "), fontsize=9)
        axis.tick_params(labelsize=7)
    axes[0].set_yticks(range(len(names)), [_setting(method) for method in names])
    axes[0].invert_yaxis()
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)


if __name__ == "__main__":
    main()
