"""Estimate of the size and duration of a long run, from a short run."""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import first_line
from m2ib_lightning.run.callbacks import TableWriter
from m2ib_lightning.run.directory import RunDirectory


def plan_run(pilot: Path, pairs: int, ranks: int = 1, rate: float | None = None) -> dict[str, float]:
    """Return the estimated rates, hours, files and bytes of a long run, by name.

    Args:
        pilot: run directory of a finished short run.
        pairs: number of pairs of the long run.
        ranks: number of ranks of the long run.
        rate: pairs per second of one rank; None for the pilot's rate.

    Raises:
        M2IBError: if a number is out of range, or the pilot is not a finished run with rows.
    """
    for name, value, in_range in (
        ("pairs", pairs, pairs >= 1),
        ("ranks", ranks, ranks >= 1),
        ("rate", rate, rate is None or 0 < rate < math.inf),
    ):
        if not in_range:
            raise M2IBError(f"{name} must be {'above 0' if name == 'rate' else 'at least 1'}, got {value}")
    rows, pilot_rate = _read_pilot(pilot)
    rate = rate or pilot_rate
    run = RunDirectory(pilot)
    row_bytes = sum(part.stat().st_size for part in run.table.glob("*.parquet")) / rows
    pictures = [picture.stat().st_size for picture in run.heatmaps.glob("[!.]*.*")]
    share = math.ceil(pairs / ranks)
    return {
        "pairs a second and rank": rate,
        "pairs a second": rate * ranks,
        "hours": share / rate / 3600,
        "bytes a row": row_bytes,
        "gigabytes of table": pairs * row_bytes / 1e9,
        "files of table": math.ceil(share / _rows_of_a_part(rate)) * ranks,
        "kilobytes a picture": sum(pictures) / len(pictures) / 1e3 if pictures else 0.0,
    }


def _read_pilot(pilot: Path) -> tuple[int, float]:
    """Return the number of rows of the pilot, and the pairs per second of one rank."""
    run = RunDirectory(pilot)
    launches = sorted(run.launches.glob("*/launch.json"))
    if not run.summary.is_file() or not launches:
        raise M2IBError(f"{str(pilot)!r} is no finished run: it has no summary.json. Finish it with resume=true")
    try:
        summary, launch = (json.loads(file.read_text(encoding="utf-8")) for file in (run.summary, launches[-1]))
        rows, rate = summary["pairs_done"] + summary["pairs_failed"], summary["pairs_per_second"]
        rate_of_rank = rate / launch["world_size"] if rate else 0.0
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError, RecursionError) as error:
        raise M2IBError(
            f"{run.summary} or {launches[-1]} is damaged ({first_line(error)}): resume=true writes them again"
        ) from error
    if not rows or not rate_of_rank:
        raise M2IBError(f"the run {str(pilot)!r} has no pairs to measure a rate from: start one with data.limit=500")
    return rows, rate_of_rank


def _rows_of_a_part(rate: float) -> int:
    """Return the number of rows in a Parquet part, which ``TableWriter`` limits by rows and by seconds."""
    defaults = {name: item.default for name, item in inspect.signature(TableWriter).parameters.items()}
    return int(min(defaults["rows"], max(1, int(rate * defaults["seconds"]))))
