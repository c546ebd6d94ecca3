"""The report of a comparison: Markdown, JSON and the HTML page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from m2ib_lightning.evaluation.bootstrap import FEWEST, Estimate
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.evaluation.comparison_page import write_comparison_page
from m2ib_lightning.evaluation.measures import MEASURES
from m2ib_lightning.files import atomic_write_text
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.summary import Summary

GROUP_QUESTIONS = {
    "localisation": "Does the map lie on what the caption names?",
    "confidence": "Does the cosine hold when only what the map shows is left?",
    "curves": "How fast does the cosine come, and go, along the map?",
    "structure": "How concentrated are the maps?",
    "probes": "Does the map depend on the model, the caption, and not on chance?",
    "reference": "As the published code computes it",
    "time": "Cost",
}

Rows = list[list[str]]


def sections(comparison: Comparison) -> Iterator[tuple[str, str, Rows, list[str]]]:
    """Yield the name, question, table and legend of each measured group; the table's first row is its header."""
    for group, question in GROUP_QUESTIONS.items():
        measures = [name for name, measure in MEASURES.items() if measure.group == group]
        measures = [name for name in measures if name in comparison.estimates]
        if measures:
            header = ["method", *(name.replace("_", " ") + _arrow(name) for name in measures)]
            rows = [[method, *(_cell(comparison, m, method) for m in measures)] for method in comparison.methods]
            legend = [
                f"{name.replace('_', ' ')}: {MEASURES[name].meaning}{_pairs(comparison, name)}" for name in measures
            ]
            yield group, question, [header, *rows], legend


def _arrow(measure: str) -> str:
    better = MEASURES[measure].better
    return {None: "", "higher": " ↑", "lower": " ↓", "zero": " →0"}[better]


def _cell(comparison: Comparison, measure: str, method: str) -> str:
    estimate = comparison.estimates[measure].get(method)
    if estimate is None or math.isnan(estimate.mean):
        return "-"
    difference = comparison.differences.get(measure, {}).get(method)
    mark = "\\*" if difference is not None and difference.excludes_zero else ""
    text = f"{_number(estimate.mean)}{mark} [{_number(estimate.low)}, {_number(estimate.high)}]"
    return f"**{text}**" if method in comparison.best(measure) else text


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def _pairs(comparison: Comparison, measure: str) -> str:
    """Describe how many pairs have the measure and how many were left out, over all methods."""
    estimates = comparison.estimates[measure].values()
    fewest, most = min(e.pairs for e in estimates), max(e.pairs for e in estimates)
    left_out = max(e.left_out for e in estimates)
    pairs = f"{most}" if fewest == most else f"{fewest} to {most}"
    return f" ({pairs} pairs{f', not defined for up to {left_out} more' if left_out else ''})"


def to_markdown(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Return the tables with their legends.

    Bold marks the best mean. A star marks a paired difference from the baseline.
    """
    lines = [
        f"Means with 95 % intervals (bootstrap over pictures). Bold: the best mean.{_star(comparison)}",
        "",
        *(f"- {note}" for note in notes),
        *([""] if notes else []),
    ]
    for group, question, (header, *rows), legend in sections(comparison):
        lines += [f"### {group.capitalize()}: {question}", ""]
        lines += [_line(header), _line(["---"] * len(header)), *map(_line, rows), ""]
        lines += [f"- {line}" for line in legend] + [""]
    return "\n".join(lines)


def _star(comparison: Comparison) -> str:
    if not comparison.differences:
        return ""
    return (
        f" \\*: differs from `{comparison.baseline}`, pair by pair (the interval of the difference excludes 0; with "
        f"fewer than {FEWEST} pictures nothing is said)."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def write_evaluation(run: RunDirectory, summary: Summary, comparison: Comparison, notes: Sequence[str]) -> Path:
    """Write ``table.md``, ``summary.json`` with the comparison, and ``report.html``; return the path of the table."""
    path = run.path / "table.md"
    atomic_write_text(path, to_markdown(comparison, notes))
    values = summary.to_dict() | {"notes": list(notes), "methods": comparison.to_dict()}
    values |= {"cascade": _steps(comparison.cascade), "curves": _steps(comparison.curves)}
    atomic_write_text(run.summary, json.dumps(_without_nan(values), indent=2) + "\n")
    write_comparison_page(run, summary, comparison, notes, GROUP_QUESTIONS)
    return path


def _steps(curves: Mapping[str, Mapping[str, Sequence[tuple[int, Estimate]]]]) -> dict[str, Any]:
    """Return curves for JSON: by name, by method, and by percentage."""
    return {
        name: {
            method: {percent: estimate.to_dict() for percent, estimate in steps} for method, steps in by_method.items()
        }
        for name, by_method in curves.items()
    }


def _without_nan(value: object) -> object:
    """Replace NaN, which JSON lacks, by None."""
    if isinstance(value, dict):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
