"""A grid of results: one picture with many captions, or many methods for one pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import (
    MARGIN,
    SMALL,
    add_paragraph,
    caption_figure,
    drawable_picture,
    fitted_picture,
    overlay_figure,
    panel_side,
)
from m2ib_lightning.results.figures.figure import INK, Figure
from m2ib_lightning.results.figures.overlays import Style, check_style
from m2ib_lightning.results.figures.saving import save_drawing
from m2ib_lightning.results.grounding import Grounding

_PANEL = 232  # longer side of a picture, in pixels
_NARROWEST = 160  # pixels: least width of a caption
_COLUMNS = 4

Result = Attribution | Grounding


def save_grid(
    results: Sequence[Result] | Mapping[str, Result],
    path: str | Path,
    *,
    columns: int | None = None,
    same_colours: bool = False,
    style: Style = "alpha",
    size: int | None = None,
    scale: float = 1.0,
) -> None:
    """Draw several results in one figure, each as an overlay with its colour bar and its coloured caption.

    If all results have the same picture, it stands first, once. A mapping gives each result a heading, such as the name
    of its method. A ``Grounding`` is drawn with the map of its whole caption.

    Args:
        results: the results, in order.
        path: the file; it ends in ``.png``, ``.webp``, ``.jpg``, ``.svg`` or ``.pdf``.
        columns: number of panels in a row; None for as many as there are, at most 4.
        same_colours: whether a colour stands for the same value in all panels, from the lowest to the highest of all
            maps. It compares captions, but not methods, whose maps have different units.
        style: as for ``Attribution.figure``.
        size: longer side of each picture in pixels, before ``scale``; None for 232, more for panoramas.
        scale: factor of everything, texts included.

    Raises:
        M2IBError: if there are no results, one of them failed or has no picture, the same colours are asked for maps
            of different units, an argument is out of range, or the ending names no format.
    """
    save_drawing(path, lambda: grid_figure(results, columns, same_colours, style, size, scale))


def grid_figure(
    results: Sequence[Result] | Mapping[str, Result],
    columns: int | None = None,
    same_colours: bool = False,
    style: Style = "alpha",
    size: int | None = None,
    scale: float = 1.0,
) -> Figure:
    """Return the figure of ``save_grid``, which describes the arguments and the errors."""
    names = list(results) if isinstance(results, Mapping) else [""] * len(results)
    listed = [whole_of(result) for result in (results.values() if isinstance(results, Mapping) else results)]
    if not listed or not (columns is None or columns >= 1):
        raise M2IBError(f"a grid needs results and columns of at least 1, got {len(listed)} results, columns={columns}")
    check_style(style)
    ends = _common_ends(listed) if same_colours else None
    share = _share_picture(listed)
    panels = [_panel(listed[0], "picture" if any(names) else "", None, style, size, scale)] if share else []
    panels += [_panel(result, name, ends, style, size, scale, True) for name, result in zip(names, listed, strict=True)]
    figure = _in_rows(panels, columns or min(_COLUMNS, len(panels)), round(MARGIN * scale))
    figure.title = f"{len(listed)} results: {'; '.join(filter(None, names)) or listed[0].pair.caption or ''}"
    return figure.with_margin(round(MARGIN * scale))


def whole_of(result: Result) -> Attribution:
    """Return the attribution of the whole caption."""
    return result.whole if isinstance(result, Grounding) else result


def _common_ends(results: Sequence[Attribution]) -> tuple[float, float]:
    units = {result.image_unit or result.unit for result in results}
    if len(units) > 1:
        raise M2IBError(f"same_colours=True needs maps of one unit, got {', '.join(map(repr, sorted(units)))}")
    maps = [result.image_saliency for result in results]
    return min(float(values.min()) for values in maps), max(float(values.max()) for values in maps)


def _share_picture(results: Sequence[Attribution]) -> bool:
    """Whether all results have the same picture; pictures that were read twice are compared by their pixels."""
    first = drawable_picture(results[0])
    others = [drawable_picture(result) for result in results[1:]]
    return bool(others) and all(
        other is first or (other.size == first.size and other.mode == first.mode and other.tobytes() == first.tobytes())
        for other in others
    )


def _panel(
    result: Attribution,
    name: str,
    ends: tuple[float, float] | None,
    style: Style,
    size: int | None,
    scale: float,
    mapped: bool = False,
) -> Figure:
    """The picture of a result under its heading; or its overlay, with the caption below it."""
    picture = drawable_picture(result)
    _, longest = panel_side(picture.size, size, scale, _PANEL, 2 * _PANEL)
    shown = fitted_picture(picture, longest)
    figure, width = Figure(), max(shown.width, round(_NARROWEST * scale))
    top = add_paragraph(figure, name, 0.0, width, round(SMALL * scale), INK) if name else 0.0
    if mapped:
        figure.add_figure(overlay_figure(result, shown, style, scale, ends), 0, top)
        figure.add_figure(caption_figure(result, width, 0.8 * scale), 0, figure.height + 6 * scale)
    else:
        figure.add_picture(shown, 0, top)
    return figure


def _in_rows(panels: Sequence[Figure], columns: int, margin: int) -> Figure:
    width, figure = max(panel.width for panel in panels), Figure()
    for start in range(0, len(panels), columns):
        top = figure.height + margin if start else 0.0
        for place, panel in enumerate(panels[start : start + columns]):
            figure.add_figure(panel, place * (width + margin), top)
    return figure
