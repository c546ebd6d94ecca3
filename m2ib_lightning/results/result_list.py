"""A list of results that shows itself in a notebook."""

from __future__ import annotations

from typing import Any, SupportsIndex, TypeVar, overload

from typing_extensions import override

from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.figures.figure import rasterise
from m2ib_lightning.results.grid import grid_figure, whole_of
from m2ib_lightning.results.grounding import Grounding
from m2ib_lightning.results.notebook import displayed, list_display

ResultT = TypeVar("ResultT", bound=Attribution | Grounding)

_LISTED = 5
_DRAWN = 12


class ResultList(list[ResultT]):
    """A list of ``Attribution`` or ``Grounding``, as ``explain`` and ``ground`` return for lists.

    It is a list in every respect. Besides, it displays itself in a notebook, its ``repr`` is short, and its slices are
    again of this class.
    """

    @overload
    def __getitem__(self, index: SupportsIndex, /) -> ResultT: ...
    @overload
    def __getitem__(self, index: slice, /) -> ResultList[ResultT]: ...
    @override
    def __getitem__(self, index: Any, /) -> Any:
        part: Any = super().__getitem__(index)
        return ResultList(part) if isinstance(index, slice) else part

    def show(self) -> None:
        """Display the results in the notebook that runs this code, else open a drawing in the system's viewer.

        The drawing is a grid of the first 12 results that did not fail.

        Raises:
            M2IBError: if it has nothing to draw.
        """
        if not displayed(self):
            drawn = [whole for whole in self._wholes() if whole.error is None and whole.pair.picture is not None]
            rasterise(grid_figure(drawn[:_DRAWN])).show()

    def _wholes(self) -> list[Attribution]:
        return [whole_of(result) for result in self]

    def _repr_html_(self) -> str:
        return list_display(self._wholes())

    @override
    def __repr__(self) -> str:
        listed = [repr(result) for result in list(self)[:_LISTED]]
        more = [f"{len(self) - _LISTED:,} more"] if len(self) > _LISTED else []
        return "[" + ",\n ".join([*listed, *more]) + "]"
