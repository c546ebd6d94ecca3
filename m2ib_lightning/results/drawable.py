"""What can be drawn: shown in a notebook or a viewer, and saved in the format that a file's ending names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from m2ib_lightning.results.figures.figure import Figure, rasterise
from m2ib_lightning.results.figures.overlays import Style
from m2ib_lightning.results.figures.saving import save_drawing
from m2ib_lightning.results.notebook import displayed


class Drawable(ABC):
    """Base class of results. A subclass lays out its ``figure`` and its page."""

    @abstractmethod
    def figure(self, style: Style = "alpha", size: int | None = None, scale: float = 1.0) -> Figure:
        """Return the drawing as a figure, before it becomes pixels or vectors."""

    @abstractmethod
    def page(self) -> str:
        """Return the HTML page."""

    def show(self, style: Style = "alpha", size: int | None = None, scale: float = 1.0) -> None:
        """Display the result in the notebook that runs this code, else open the drawing in the system's viewer.

        A notebook needs no call for the last expression of a cell: it displays the object itself. The arguments are
        those of ``figure``, for the viewer.
        """
        if not displayed(self):
            rasterise(self.figure(style, size, scale)).show()

    def save(self, path: str | Path, style: Style = "alpha", size: int | None = None, scale: float = 1.0) -> None:
        """Write the result in the format of the path's ending.

        ``.png``, ``.webp`` and ``.jpg`` have the figure as pixels. ``.svg`` and ``.pdf`` have its text as text.
        ``.html`` is the page, which has its own layout, without ``style``, ``size`` and ``scale``.

        Args:
            path: the file.
            style: as for ``figure``.
            size: as for ``figure``.
            scale: as for ``figure``.

        Raises:
            M2IBError: if the path has another ending, or as ``figure`` says.
        """
        save_drawing(path, lambda: self.figure(style, size, scale), self.page)
