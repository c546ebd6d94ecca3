"""The page of ``task=evaluate``: the comparison, and the pairs with their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from m2ib_lightning.evaluation.bootstrap import Estimate
from m2ib_lightning.evaluation.comparison import Comparison
from m2ib_lightning.evaluation.cosine_curves import CURVES_FIELD
from m2ib_lightning.evaluation.measures import MEASURES
from m2ib_lightning.evaluation.scores import SCORES_SCHEMA
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.page_rows import number
from m2ib_lightning.run.pages.run_report import MOST_PAIRS, PageRows, write_report
from m2ib_lightning.run.summary import Summary

_TEXTS = ("key", "id", "image", "caption", "sentence", "error")


def write_comparison_page(
    run: RunDirectory,
    summary: Summary,
    comparison: Comparison,
    notes: Sequence[str],
    groups: Mapping[str, str],
    most: int | None = MOST_PAIRS,
) -> list[Path]:
    """Write the page of a comparison; return the paths of its pages.

    Args:
        run: the run directory.
        summary: the summary of the run.
        comparison: the comparison of the methods.
        notes: lines that a reader needs.
        groups: the question that each group of measures answers.
        most: largest number of pairs on the pages; None for all.
    """
    measures = list(comparison.estimates)
    head = {
        "method": ", ".join(comparison.methods),
        "comparison": {
            "methods": comparison.methods,
            "baseline": comparison.baseline,
            "notes": list(notes),
            "measures": [_measure(comparison, name, groups) for name in measures],
            "cascade": _steps(comparison.cascade),
            "curves": _steps(comparison.curves),
        },
    }
    columns = tuple(name for name in SCORES_SCHEMA.names if name != CURVES_FIELD.name)
    rows = PageRows(columns, SCORES_SCHEMA, lambda row: _record(row, comparison.methods, measures))
    return write_report(run, summary, most=most, rows=rows, head=head)


def _steps(curves: Mapping[str, Mapping[str, Sequence[tuple[int, Estimate]]]]) -> dict[str, Any]:
    """Return curves by name and method, with the percentage and the ends of each point."""
    return {
        name: {method: [[percent, *_ends(e)] for percent, e in steps] for method, steps in by_method.items()}
        for name, by_method in curves.items()
    }


def _measure(comparison: Comparison, name: str, groups: Mapping[str, str]) -> dict[str, Any]:
    measure, differences = MEASURES[name], comparison.differences.get(name, {})
    return {
        "name": name,
        "group": measure.group,
        "question": groups.get(measure.group, ""),
        "better": measure.better,
        "meaning": measure.meaning,
        "best": sorted(comparison.best(name)),
        "values": {
            method: {
                "ends": _ends(e),
                "pairs": e.pairs,
                "left_out": e.left_out,
                "difference": _difference(differences, method),
            }
            for method, e in comparison.estimates[name].items()
        },
    }


def _difference(differences: Mapping[str, Estimate], method: str) -> dict[str, Any] | None:
    if method not in differences:
        return None
    return {"ends": _ends(differences[method]), "differs": differences[method].excludes_zero}


def _ends(estimate: Estimate) -> list[float | None]:
    return [number(estimate.mean), number(estimate.low), number(estimate.high)]


def _record(row: Mapping[str, Any], methods: Sequence[str], measures: Sequence[str]) -> dict[str, Any]:
    """Return the record of a row: the mean over its seeds of each measure, by the numbers of method and measure."""
    record = {name: row[name] for name in _TEXTS if row.get(name) is not None}
    if row.get("heatmap"):
        record["drawing"] = f"heatmaps/{row['heatmap']}"
    if row.get("failures"):
        record["failures"] = row["failures"]
    values: dict[tuple[int, int], list[float]] = {}
    for score in row.get("scores") or ():
        if score["method"] in methods and score["measure"] in measures and score["value"] is not None:
            place = methods.index(score["method"]), measures.index(score["measure"])
            values.setdefault(place, []).append(score["value"])
    means = [[*place, number(sum(found) / len(found))] for place, found in values.items()]
    if means:
        record["scores"] = [entry for entry in means if entry[2] is not None]
    return record
