"""What the first screen of a page draws: histograms, mean curves, ranges of the maps, and failures by reason."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from m2ib_lightning.run.pages.page_rows import number

_BINS = 32
_REASONS = 50
"""Largest number of different reasons that are listed; the other failures are counted together."""


class Overview:
    """Statistics over the records of a page, added one by one."""

    def __init__(self) -> None:
        self.rows = self.thumbnails = self.inline = 0
        self._values: dict[str, list[float]] = {"similarity": [], "image information": [], "text information": []}
        self._ends: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
        self._curves: dict[tuple[str, int], list[Any]] = {}
        self._reasons: Counter[str] = Counter()

    def add(self, row: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Add a row of the table and its record."""
        self.rows += 1
        if "thumb" in record:
            self.thumbnails += 1
            self.inline += record["thumb"].startswith("data:")
        if "error" in record:
            self._reasons[record["error"]] += 1
            return
        information = record.get("information", (None, None))
        for name, value in zip(self._values, (record.get("similarity"), *information), strict=True):
            if value is not None:
                self._values[name].append(value)
        for name in ("map", "words"):
            if record.get(name):
                self._ends[name].append((record[name][0], record[name][1]))
        for panel in record.get("panels", ()):
            for name in ("map", "words"):
                if panel.get(name):
                    self._ends[f"{name} of {panel['name']}"].append((panel[name][0], panel[name][1]))
        self._ends["units"] += [(unit[3][0], unit[3][1]) for unit in record.get("units", ()) if unit[3]]
        for tower in ("image", "text"):
            if row.get(f"{tower}_loss"):
                self._add_curve(tower, row[f"{tower}_loss"])

    def _add_curve(self, tower: str, curve: Sequence[float]) -> None:
        values = np.asarray(curve, np.float64)
        if not np.isfinite(values).all():
            return
        count, total, squares = self._curves.get((tower, len(values)), (0, 0.0, 0.0))
        self._curves[tower, len(values)] = [count + 1, total + values, squares + values**2]

    def to_dict(self) -> dict[str, Any]:
        """Return the statistics for the page's head."""
        return {
            "histograms": {name: histogram(values) for name, values in self._values.items() if values},
            "ranges": {name: _range(ends) for name, ends in self._ends.items() if ends},
            "curves": [
                {"tower": tower, "pairs": count, "mean": _rounded(total / count), "deviation": _deviation(*sums)}
                for (tower, _), sums in self._curves.items()
                for count, total in (sums[:2],)
            ],
            "reasons": [[reason, count] for reason, count in self._reasons.most_common(_REASONS)],
            "other_reasons": sum(self._reasons.values()) - sum(n for _, n in self._reasons.most_common(_REASONS)),
            "thumbnails": self.thumbnails,
            "inline": self.inline,
        }


def histogram(values: Sequence[float]) -> dict[str, Any]:
    """Return the counts of values in equal bins between the lowest and the highest, with their mean."""
    counts, edges = np.histogram(values, bins=_BINS)
    return {
        "low": number(edges[0]),
        "high": number(edges[-1]),
        "counts": counts.tolist(),
        "mean": number(float(np.mean(values))),
    }


def _range(ends: Sequence[tuple[float, float]]) -> list[float | None]:
    """Return the lowest value of all maps, the 99th percentile of their highest values, and the highest of all."""
    lows, highs = np.array(ends, np.float64).T
    return [number(lows.min()), number(np.percentile(highs, 99)), number(highs.max())]


def _deviation(count: int, total: Any, squares: Any) -> list[float | None]:
    return _rounded(np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)))


def _rounded(values: Any) -> list[float | None]:
    return [number(float(value)) for value in values]
