"""A list of results that shows itself in a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex, TypeVar, overload

from PIL import Image
from typing_extensions import override

from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.grounding import Grounding
from m2ib_lightning.results.grounding_drawing import draw_result
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

        The drawing has the first 12 results that did not fail, one below the other.
        """
        if not displayed(self):
            _stacked([draw_result(whole) for whole in _worked(self._wholes())[:_DRAWN]]).show()

    def _wholes(self) -> list[Attribution]:
        return [result.whole if isinstance(result, Grounding) else result for result in self]

    def _repr_html_(self) -> str:
        return list_display(self._wholes())

    @override
    def __repr__(self) -> str:
        listed = [repr(result) for result in list(self)[:_LISTED]]
        more = [f"{len(self) - _LISTED:,} more"] if len(self) > _LISTED else []
        return "[" + ",\n ".join([*listed, *more]) + "]"


def _worked(results: Sequence[Attribution]) -> list[Attribution]:
    return [result for result in results if result.error is None and result.pair.picture is not None]


def _stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """The pictures one below the other."""
    height = sum(picture.height for picture in pictures)
    canvas = Image.new("RGB", (max((picture.width for picture in pictures), default=1), max(1, height)), "white")
    top = 0
    for picture in pictures:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
