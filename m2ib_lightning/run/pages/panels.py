"""Panels of a page: the maps of several methods, or of several runs, side by side on one picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_KEPT = ("grid", "crop", "map", "mapUnit", "offsets", "words", "similarity")


def panel_of(name: str, record: Mapping[str, Any], *, unit: str, hit: bool | None) -> dict[str, Any]:
    """Return the panel of one map.

    Args:
        name: name of the method, or of the run.
        record: record of the pair, as ``page_record`` returns it.
        unit: unit of the saliency.
        hit: whether the map's highest point is on the marked part; None if the truth marks nothing.
    """
    panel = {"name": name, "unit": unit, "hit": hit} | {key: record[key] for key in _KEPT if key in record}
    return {key: value for key, value in panel.items() if value not in (None, "")}
