"""The curves of insertion and deletion: kept with the scores of each pair, and their means over pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from m2ib_lightning.evaluation.bootstrap import Estimate, Resamples, estimate_means
from m2ib_lightning.run.table import row_order, tables

PERCENTS = tuple(range(0, 101, 10))
"""Percentages of the patches or words at which a curve is kept; between its own steps it is linear."""

CURVES_FIELD = pa.field(
    "curves",
    pa.list_(
        pa.struct(
            [
                pa.field("method", pa.string()),
                pa.field("measure", pa.string()),
                pa.field("cosines", pa.list_(pa.float32())),  # at each percentage, from none to all
            ]
        )
    ),
)
"""Column of the score table."""

Means = dict[str, dict[str, list[tuple[int, Estimate]]]]
"""By measure, then by method: the percentage and the mean cosine of each point."""


def kept_points(curve: Tensor) -> list[float]:
    """Return a curve (S) at the percentages.

    >>> import torch
    >>> kept_points(torch.tensor([0.0, 1.0]))[:3]
    [0.0, 0.1, 0.2]
    """
    steps = np.linspace(0, 100, len(curve))
    return np.interp(PERCENTS, steps, curve.numpy()).tolist()


def mean_curves(run: str | Path, methods: Sequence[str], *, resamples: int, seed: int) -> Means:
    """Return the mean curves of the pairs of a run, with 95 % intervals.

    Args:
        run: path of the run directory.
        methods: names of the methods, in order.
        resamples: number of resamples of the bootstrap.
        seed: seed of the resamples.
    """
    rows = list(_rows(Path(run).expanduser() / "scores"))
    rows = [rows[index] for index in row_order([row["key"] for row in rows])]
    draws = Resamples(np.array([row["image"] or row["key"] for row in rows], object), resamples, seed)
    values: dict[str, dict[str, dict[int, list[float]]]] = {}
    for place, row in enumerate(rows):
        for curve in row["curves"]:
            if curve["method"] in methods:
                values.setdefault(curve["measure"], {}).setdefault(curve["method"], {})[place] = curve["cosines"]
    return {
        measure: {method: _points(by_method[method], len(rows), draws) for method in methods if method in by_method}
        for measure, by_method in values.items()
    }


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    schema = pa.schema([pa.field("key", pa.string()), pa.field("image", pa.string()), CURVES_FIELD])
    for table in tables(folder, schema.names, schema):
        yield from (row for row in table.to_pylist() if row["curves"])


def _points(curves: dict[int, list[float]], pairs: int, draws: Resamples) -> list[tuple[int, Estimate]]:
    values = np.full((pairs, len(PERCENTS)), np.nan)
    values[list(curves)] = list(curves.values())
    estimates = estimate_means(values, [str(percent) for percent in PERCENTS], draws)
    return [(percent, estimates[str(percent)]) for percent in PERCENTS]
