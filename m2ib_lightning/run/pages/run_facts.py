"""What every page says of its run: model, method, data, settings and dates."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import read_yaml
from m2ib_lightning.results.page_assets import colours
from m2ib_lightning.run.directory import RunDirectory
from m2ib_lightning.run.pages.quantised import STEPS


def run_facts(run: RunDirectory) -> dict[str, Any]:
    """Return what a page says of the run as a whole, for its head."""
    config, text = config_of(run)
    started = datetime.fromtimestamp(run.config.stat().st_mtime) if text else None
    return {
        "version": _version(),
        "name": run.path.name,
        "task": config.get("task", ""),
        "model": _value(config, "model"),
        "method": _value(config, "method"),
        "data": _value(config, "data"),
        "source": _value(config, "data", "path"),
        "config": text,
        "started": started.isoformat(" ", "minutes") if started else None,
        "written": datetime.now().isoformat(" ", "minutes"),
        "colours": colours(),
        "steps": STEPS,
    }


def config_of(run: RunDirectory) -> tuple[dict[str, Any], str]:
    """Return the keys and values of a run's ``config.yaml``, and its text; both empty if it can't be read."""
    try:
        config = read_yaml(run.config) if run.config.is_file() else {}
        return config, run.config.read_text(encoding="utf-8", errors="replace") if config else ""
    except M2IBError:  # a page without its settings is better than none
        return {}, ""


def method_of(run: RunDirectory) -> str:
    """Return the name of a run's method; empty if it is not known."""
    return str(_value(config_of(run)[0], "method") or "")


@cache
def _version() -> str:
    try:
        return version("m2ib_lightning")
    except PackageNotFoundError:  # a checkout that is not installed
        return ""


def _value(config: Mapping[str, Any], group: str, name: str = "name") -> Any:
    values = config.get(group)
    return values.get(name) if isinstance(values, dict) else None
