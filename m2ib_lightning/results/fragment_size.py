"""How large the HTML of a result may become: in full for a page, small for a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from PIL import Image

from m2ib_lightning.results.drawing import fitted
from m2ib_lightning.results.inline_pictures import inline_picture

ELLIPSIS = "…"


@dataclass(frozen=True)
class FragmentSize:
    """How large the HTML of a result may become.

    Attributes:
        encode: turns a picture into a data URI.
        longest: longer side of a picture in pixels, before it is encoded; None for the picture's own.
        words: largest number of characters of the caption's HTML; None for no limit.
        maps: largest number of units that show a map of their own; None for all.
    """

    encode: Callable[[Image.Image], str] = inline_picture
    longest: int | None = None
    words: int | None = None
    maps: int | None = None

    def shown(self, picture: Image.Image, longest: int | None = None) -> Image.Image:
        """Return a picture in RGB, with the longer side of this size; ``longest`` is the default of a full page."""
        longest = self.longest or longest
        picture = picture.convert("RGB")
        return picture if longest is None else picture.resize(fitted(picture.size, longest), Image.Resampling.BICUBIC)

    def joined(self, pieces: Iterable[str]) -> str:
        """Join the pieces of a caption's HTML, up to the last that fits."""
        kept: list[str] = []
        length = 0
        for piece in pieces:
            length += len(piece)
            if self.words is not None and length > self.words:
                return "".join([*kept, ELLIPSIS])
            kept.append(piece)
        return "".join(kept)


FULL = FragmentSize()
"""The size of a page that is saved: everything, with pictures as PNG."""
