"""The configuration that a run directory keeps, in which every null key of the bottleneck has its value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from m2ib_lightning.config import Config, TowerConfig
from m2ib_lightning.files import dump_yaml


def resolved_yaml(config: Config, bottleneck: Mapping[str, Any], statistics_hash: str | None) -> str:
    """Return the text of a run's ``config.yaml``, in which every null key of the bottleneck is resolved.

    Args:
        config: configuration of the run, before resolving.
        bottleneck: resolved settings of the bottlenecks, from ``BottleneckSettings.to_dict``.
        statistics_hash: sha256 of the layer statistics, for the first line; None if no prior uses them.
    """
    towers = {name: TowerConfig(**bottleneck[name]) for name in ("image", "text")}
    resolved = replace(config.bottleneck, **{**bottleneck, **towers})
    head = "" if statistics_hash is None else f"# sha256 of the layer statistics: {statistics_hash}\n"
    return head + to_yaml(replace(config, bottleneck=resolved, resume=False, retry_failed=False))


def to_yaml(config: Config) -> str:
    """Return the configuration as YAML. ``parse(["--config", FILE])`` reads it back from a file."""
    return dump_yaml(_escaped(asdict(config)))


def _escaped(value: Any) -> Any:
    """Escape ``${`` in all text of a value, so that OmegaConf does not interpolate it."""
    if isinstance(value, dict):
        return {key: _escaped(item) for key, item in value.items()}
    return value.replace("${", r"\${") if isinstance(value, str) else value
