"""Writing of a drawing in the format that the ending of its file names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.results.figures.figure import Figure, rasterise
from m2ib_lightning.results.figures.pdf import write_pdf
from m2ib_lightning.results.figures.svg import to_svg

_PIXELS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".webp": {"format": "WEBP", "quality": 95},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
}


def save_drawing(path: str | Path, figure: Callable[[], Figure], page: Callable[[], str] | None = None) -> None:
    """Write a drawing.

    Args:
        path: the file; its ending names the format.
        figure: function that returns the figure, for pixels, ``.svg`` and ``.pdf``.
        page: function that returns the page, for ``.html``; None if there is none.

    Raises:
        M2IBError: if the ending names no format.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending in _PIXELS:
        rasterise(figure()).save(path, **_PIXELS[ending])
    elif ending == ".svg":
        path.write_text(to_svg(figure()), encoding="utf-8")
    elif ending == ".pdf":
        write_pdf(figure(), path)
    elif ending in (".html", ".htm") and page is not None:
        path.write_text(page(), encoding="utf-8", errors="replace")
    else:
        last = ".svg or .pdf" if page is None else ".svg, .pdf or .html"
        raise M2IBError(f"save({str(path)!r}): the file must end in .png, .webp, .jpg, {last}, got {path.suffix!r}")
