"""The page of ``task=finetune``: settings, loss and validation curves, and the metrics of the result."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from m2ib_lightning.files import atomic_write
from m2ib_lightning.finetuning.metrics_file import NAME, read_metrics
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.page_file import PageFile
from m2ib_lightning.run.pages.run_facts import run_facts


def write_training_page(run: RunDirectory) -> Path:
    """Write ``report.html`` of a training, which may be unfinished; return its path."""
    summary = _read_json(run.summary)
    facts = _read_json(run.path / "training.json")
    training = {
        "finished": bool(summary),
        "summary": summary,
        "facts": {name: value for name, value in facts.items() if name != "source" and value is not None},
        "curves": read_metrics(run.path / NAME),
    }
    with atomic_write(run.report) as file:
        page = PageFile(file, f"M2IB: {run.path.name}")
        page.end(run_facts(run) | {"training": training, "pages": [], "page": 0})
    return run.report


def _read_json(path: Path) -> dict[str, Any]:
    """Return the finite values of a JSON file; nothing if there is none, or it is damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(values, dict):
        return {}
    return {name: value for name, value in values.items() if not isinstance(value, float) or math.isfinite(value)}
