"""Comparison of the tables of two runs, which should hold the same pairs, each once, with the same numbers."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from m2ib_lightning.run.table import load_attributions


def differences(run: str | Path, other: str | Path, tolerance: float = 1e-5) -> list[str]:
    """Return a line for each difference between the tables of two runs; an empty list if they agree.

    Args:
        run: a run directory.
        other: the run directory to compare with.
        tolerance: largest difference at which numbers count as equal: ``max|a - b| / max|b|`` for a list, ``|a - b|``
            for a single number.

    Raises:
        M2IBError: if a folder is not a run directory.
    """
    tables = [load_attributions(folder).to_list() for folder in (run, other)]
    lines = []
    for folder, rows in zip((run, other), tables, strict=True):
        repeated = [key for key, count in Counter(row["key"] for row in rows).items() if count > 1]
        lines += [f"{folder}: {key} has more than one row" for key in repeated]
    first, second = ({row["key"]: row for row in rows} for rows in tables)
    lines += [f"{key} is only in {run}" for key in first.keys() - second.keys()]
    lines += [f"{key} is only in {other}" for key in second.keys() - first.keys()]
    for key in sorted(first.keys() & second.keys()):
        for column in first[key]:
            if column == "fingerprint":  # it names the input, with the time of a file
                continue
            if not _same(first[key][column], second[key][column], tolerance):
                lines.append(f"{key}: {column} is {first[key][column]} and {second[key][column]}")
    return lines


def _same(a: Any, b: Any, tolerance: float) -> bool:
    """Compare two cells; null and NaN equal themselves only."""
    if isinstance(a, float) and isinstance(b, float):
        return abs(a - b) <= tolerance or (math.isnan(a) and math.isnan(b))
    if _is_numeric(a) and _is_numeric(b) and len(a) == len(b):
        first, second = np.array(a, np.float64), np.array(b, np.float64)  # null becomes NaN
        largest = max(np.nanmax(np.abs(second), initial=0), np.finfo(np.float32).tiny)
        return bool(np.allclose(first, second, rtol=0, atol=tolerance * largest, equal_nan=True))
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):  # the maps of units, some of them null
        return all(_same(first, second, tolerance) for first, second in zip(a, b, strict=True))
    return bool(a == b)


def _is_numeric(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(number, float) for number in value)
