"""Converts a result to its table row, and back. The columns are those of ``m2ib_lightning.run.parts.SCHEMA``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.pairs.units.unit import Unit
from m2ib_lightning.results.tower_attribution import Floats, TowerAttribution
from m2ib_lightning.results.unit_maps import UnitMaps

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

_MAP_COLUMNS = ("image_saliency", "grid_height", "grid_width", "image_width", "image_height", "crop")
"""Columns that are needed to place a map on its picture."""


def row_of(result: Attribution) -> dict[str, Any]:
    """Return the table row of a result."""
    pair = result.pair
    row: dict[str, Any] = {"key": pair.key, "id": pair.id, "image": pair.image, "caption": pair.caption}
    row |= {"fingerprint": pair.fingerprint, "sentence": pair.sentence}
    if result.image is None:
        return row | {"error": result.error}
    height, width = result.image.saliency.shape
    return row | {
        "tokens": pair.tokens,
        "token_offsets": [list(offset) for offset in pair.token_offsets],
        "grid_height": height,
        "grid_width": width,
        "image_width": pair.image_size[0],
        "image_height": pair.image_size[1],
        "crop": list(pair.crop),
        "similarity": result.similarity,
        "heatmap": result.heatmap,
        **_tower_columns("image", result.image),
        "image_unit": result.image_unit,
        **({} if result.text is None else _tower_columns("text", result.text)),
        **({} if result.text is None else {"text_saliency": _with_nulls(result.text.saliency, pair.unread)}),
        **({} if result.units is None else _unit_columns(pair, result.units)),
    }


def _unit_columns(pair: Pair, units: UnitMaps) -> dict[str, Any]:
    """Return the columns of a grounding; the map and the share of a unit that is never read are null."""
    read = [index not in units.unread for index in range(len(pair.units))]
    return {
        "unit_spans": [[unit.start, unit.end] for unit in pair.units],
        "unit_saliency": [m.ravel() if r else None for m, r in zip(units.saliency, read, strict=True)],
        "unit_share": [float(s) if r else None for s, r in zip(units.shares, read, strict=True)],
    }


def _with_nulls(saliency: Floats, unread: list[int]) -> Floats | list[float | None]:
    """Return the saliency of the tokens, with null for those that the tower never reads."""
    if not unread:
        return saliency
    return [None if index in unread else float(value) for index, value in enumerate(saliency)]


def _tower_columns(tower: str, part: TowerAttribution) -> dict[str, Any]:
    return {
        f"{tower}_saliency": part.saliency.ravel(),
        f"{tower}_similarity": part.last_similarity,
        f"{tower}_information": part.last_information,
        f"{tower}_loss": part.loss,
    }


def fields_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an ``Attribution``, restored from its table row.

    Raises:
        M2IBError: if the row has neither a map nor an error, or its columns do not agree with each other.
    """
    pair = _pair_of(row)
    if pair.error is not None:
        return {"pair": pair, "error": pair.error}
    _check_map(row)
    image, similarity = _tower_of(row, "image"), row.get("similarity")
    return {
        "pair": pair,
        "similarity": float("nan") if similarity is None else float(similarity),
        "image": image,
        "text": _tower_of(row, "text"),
        "heatmap": row.get("heatmap"),
        "unit": "" if image is None or image.loss is None else "nats",
        "image_unit": row.get("image_unit"),
        "units": _units_of(row),
    }


def _units_of(row: Mapping[str, Any]) -> UnitMaps | None:
    """Return the maps of the units, or None if the row is not one of a grounding."""
    saliency, shares = row.get("unit_saliency"), row.get("unit_share")
    if saliency is None or shares is None or row.get("unit_spans") is None:
        return None
    grid = (row["grid_height"], row["grid_width"])
    maps = np.zeros((len(saliency), *grid), np.float32)
    for index, values in enumerate(saliency):
        if values is not None:
            if len(values) != grid[0] * grid[1]:
                raise M2IBError(
                    f"unit {index} of {row['key']!r} must have {grid[0]} x {grid[1]} patches, got {len(values)}: the "
                    "row is damaged"
                )
            maps[index] = np.asarray(values, np.float32).reshape(grid)
    unread = tuple(index for index, values in enumerate(saliency) if values is None)
    return UnitMaps(maps, np.array([0.0 if share is None else share for share in shares], np.float32), unread)


def _pair_of(row: Mapping[str, Any]) -> Pair:
    for name in ("key", "id"):
        if row.get(name) is None:
            raise M2IBError(
                f"a row of a run's table has 'key' and 'id', this one has no {name!r}: load that column too"
            )
    crop = row.get("crop")
    return Pair(
        row["key"],
        row["id"],
        row.get("image") or "",
        row.get("caption"),
        tokens=list(row.get("tokens") or ()),
        token_offsets=[(start, end) for start, end in row.get("token_offsets") or ()],
        image_size=(row.get("image_width") or 0, row.get("image_height") or 0),
        crop=(0, 0, 0, 0) if crop is None else (crop[0], crop[1], crop[2], crop[3]),
        unread=[index for index, value in enumerate(_or_empty(row.get("text_saliency"))) if value is None],
        error=row.get("error"),
        fingerprint=row.get("fingerprint"),
        sentence=row.get("sentence"),
        units=[Unit.of(row.get("caption") or "", start, end) for start, end in _or_empty(row.get("unit_spans"))],
    )


def _or_empty(values: Any) -> Any:
    return () if values is None else values


def _check_map(row: Mapping[str, Any]) -> None:
    """Raise an error if the row lacks a column that a map needs, or has the wrong number of patches."""
    for name in _MAP_COLUMNS:
        if row.get(name) is None:
            raise M2IBError(
                f"the row of {row['key']!r} has no error and no {name!r}: load it with {', '.join(_MAP_COLUMNS)}"
            )
    patches, height, width = len(row["image_saliency"]), row["grid_height"], row["grid_width"]
    if patches != height * width:
        raise M2IBError(f"the row of {row['key']!r} must have {height} x {width} patches, got {patches}: it is damaged")


def _tower_of(row: Mapping[str, Any], tower: str) -> TowerAttribution | None:
    """Return one tower's part of the result, or None if the row has no saliency for it."""
    saliency, *curves = (row.get(f"{tower}_{name}") for name in ("saliency", "loss", "information", "similarity"))
    if saliency is None:
        return None
    saliency = np.asarray([0 if value is None else value for value in saliency], np.float32)
    if tower == "image":
        saliency = saliency.reshape(row["grid_height"], row["grid_width"])
    return TowerAttribution(
        saliency, *(None if curve is None else np.atleast_1d(np.float32(curve)) for curve in curves)
    )
