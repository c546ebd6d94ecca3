"""Writes the measured parts of docs/evaluation.md: tables, plots, and what does better than M2IB.

    python fit.py --config evaluate output_dir=runs/evaluate
    python fit.py --config ablation seed=1 output_dir=runs/ablation
    python scripts/write_evaluation.py runs/evaluate --ablation runs/ablation

Needs matplotlib, which Captum brings.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import torch
from machine import describe

from m2ib_lightning.evaluation.bootstrap import FEWEST
from m2ib_lightning.evaluation.measures import MEASURES
from m2ib_lightning.files import atomic_write_text

DOCUMENT = Path(__file__).parent.parent / "docs" / "evaluation.md"
BASELINE = "m2ib"
ABLATED = ("image_pointing", "image_mass", "image_rank", "image_best_iou", "image_auroc", "image_ap", "text_auroc")


def main() -> None:
    """Write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--ablation", type=Path)
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    given = parser.parse_args()
    summary = json.loads((given.run / "summary.json").read_text())
    write_section(given.document, "table", (given.run / "table.md").read_text())
    write_section(given.document, "facts", facts(given.run, summary))
    write_section(given.document, "better", better_than_baseline(summary["methods"]))
    plots = given.document.parent / "evaluation"
    plots.mkdir(exist_ok=True)
    plot_cascade(summary["cascade"], plots / "randomised.png")
    if given.ablation is not None:
        ablation = json.loads((given.ablation / "summary.json").read_text())["methods"]
        write_section(given.document, "ablation", ablation_table(ablation))
        plot_ablation(ablation, plots / "ablation.png")


def write_section(document: Path, name: str, text: str) -> None:
    """Replace what is between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        SystemExit: if the document has no such marks.
    """
    content = document.read_text(encoding="utf-8")
    pattern = rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)"
    if not re.search(pattern, content, flags=re.DOTALL):
        raise SystemExit(f"{document} has no marks <!-- {name}:begin --> and <!-- {name}:end -->")
    filled = re.sub(pattern, lambda match: f"{match[1]}\n{text.strip()}\n\n{match[2]}", content, flags=re.DOTALL)
    atomic_write_text(document, filled)


def facts(run: Path, summary: dict[str, Any]) -> str:
    """How large the run was, how long it took, and on what."""
    machine = describe(torch.device("cpu"))
    ranks = json.loads(max((run / "launches").glob("*/launch.json")).read_text())["world_size"]
    probes = [
        found["image_sensitivity"]["pairs"] for found in summary["methods"].values() if "image_sensitivity" in found
    ]
    probed = max(probes, default=0)
    return (
        f"{summary['pairs_done']} pairs, {probed} of them probed, {len(summary['methods'])} methods, "
        f"{summary['seconds'] / 60:.1f} minutes on {ranks} ranks. {machine['name']}, torch {machine['torch']}."
    )


def better_than_baseline(methods: dict[str, Any]) -> str:
    """By measure: the methods whose difference from the baseline is for the better, and not zero."""
    lines = []
    for measure, about in MEASURES.items():
        compared = any(f"minus_{BASELINE}" in found.get(measure, {}) for found in methods.values())
        if about.better in (None, "zero") or not compared or about.group == "time":
            continue
        winners = []
        for method, found in methods.items():
            difference = found.get(measure, {}).get(f"minus_{BASELINE}")
            if difference and _is_better(difference, about.better):
                low, mean, high = (difference[name] for name in ("low", "mean", "high"))
                winners.append(f"`{method}` ({mean:+.3f} [{low:+.3f}, {high:+.3f}])")
        name = measure.replace("_", " ")
        lines.append(f"| {name} | {', '.join(winners) or 'none'} |")
    return "\n".join(["| measure | does better than `m2ib`, by (95 % interval) |", "| --- | --- |", *lines])


def _is_better(difference: dict[str, Any], better: str) -> bool:
    if difference["low"] is None or difference["pairs"] < FEWEST:
        return False
    return bool(difference["low"] > 0 if better == "higher" else difference["high"] < 0)


def ablation_table(methods: dict[str, Any]) -> str:
    """A row for each setting."""
    head = ["setting", *(name.replace("_", " ") for name in ABLATED)]
    rows = [[_setting(method), *(_mean(found[name]) for name in ABLATED)] for method, found in methods.items()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def _mean(estimate: dict[str, Any]) -> str:
    difference = estimate.get(f"minus_{BASELINE}")
    differs = difference is not None and difference["pairs"] >= FEWEST
    differs = differs and (difference["low"] > 0 or difference["high"] < 0)
    return f"{estimate['mean']:.3f}{chr(92) + '*' if differs else ''}"


def _setting(method: str) -> str:
    return method.removeprefix("m2ib").removeprefix(":").replace(",", ", ") or "as the model recommends"


def plot_cascade(cascade: dict[str, Any], path: Path) -> None:
    """Correlation with the original map as more and more of the weights are random."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    colours = pyplot.get_cmap("tab20").colors
    for axis, tower in zip(axes, ("image", "text"), strict=True):
        axis.set_prop_cycle(color=colours)
        for method, found in cascade.get(tower, {}).items():
            percents = [0, *map(int, found)]
            width = 2.5 if method == BASELINE else 1.0
            axis.plot(percents, [1.0, *(stage["mean"] for stage in found.values())], linewidth=width, label=method)
        axis.axhline(0.3, color="grey", linestyle=":", linewidth=1)
        axis.set(title=tower, xlabel="random weights, from the top (%)", ylim=(-0.7, 1.05))
    axes[0].set_ylabel("Spearman correlation with the original map")
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def plot_ablation(methods: dict[str, Any], path: Path) -> None:
    """A panel for each measure: the settings with their intervals."""
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
