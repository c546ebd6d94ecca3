"""The rows of the page of ``task=attribute`` and ``task=ground``: a record for each row of the table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from m2ib_lightning.run.pages.quantised import quantised

COLUMNS = (
    *("key", "id", "image", "caption", "sentence", "error", "similarity", "image_information", "text_information"),
    *("grid_height", "grid_width", "image_width", "image_height", "crop", "image_saliency", "image_loss"),
    *("token_offsets", "text_saliency", "text_loss", "unit_spans", "unit_saliency", "unit_share", "heatmap"),
    "image_unit",
)
"""Columns of the table that the page reads."""

_TEXTS = ("key", "id", "image", "caption", "sentence", "error")


def page_record(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a row. What the row lacks, the record lacks too.

    Maps, words and loss curves are as ``quantised`` returns them. ``offsets`` has the start and the end of each token
    in turn, in characters of the caption, and so has ``units``, with the share and the map of each unit behind them.
    """
    record: dict[str, Any] = {name: row.get(name) for name in _TEXTS}
    if row.get("heatmap"):
        record["drawing"] = f"heatmaps/{row['heatmap']}"
    if row.get("error") is None and row.get("image_saliency") is not None:
        record |= {
            "similarity": number(row.get("similarity")),
            "information": _unless_empty([number(row.get(f"{tower}_information")) for tower in ("image", "text")]),
            "grid": [row["grid_height"], row["grid_width"]],
            "size": [row["image_width"], row["image_height"]],
            "crop": row["crop"],
            "map": quantised(row["image_saliency"]),
            "mapUnit": row.get("image_unit"),
            "offsets": [*chain.from_iterable(row.get("token_offsets") or ())],
            "words": quantised(row.get("text_saliency")),
            "loss": _unless_empty([quantised(row.get(f"{tower}_loss")) for tower in ("image", "text")]),
            "units": _units(row),
        }
    return {name: value for name, value in record.items() if value is not None}


def number(value: float | None) -> float | None:
    """Return a number with 6 digits; None if it is not finite."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def _units(row: Mapping[str, Any]) -> list[list[Any]] | None:
    spans, maps, shares = (row.get(f"unit_{name}") for name in ("spans", "saliency", "share"))
    if spans is None or maps is None or shares is None:
        return None
    return [
        [start, end, number(share), quantised(values)]
        for (start, end), share, values in zip(spans, shares, maps, strict=True)
    ]


def _unless_empty(values: Sequence[Any]) -> list[Any] | None:
    return None if all(value is None for value in values) else list(values)
