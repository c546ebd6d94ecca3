"""What is known of a pair beside the pair, for judging its maps: where the caption's object is, which words matter.

Legend: H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.images import ImageLike, read_image

Mask = NDArray[np.bool_]

_HALF = 128
"""Grey values from here on are inside."""


@dataclass(frozen=True)
class OtherCaption:
    """Another caption for the same picture.

    Attributes:
        kind: ``present`` (names another object that is there), ``absent`` (one that is not), ``gibberish``,
            ``shuffled`` (another pair's caption), or ``given`` (by the table or the course, for training).
        text: the caption.
        mask: (H, W) bool, what it names; None if that is not known.
        named: names of what it says, as ``RawTruth.named``; none: it is true of no picture that is known.
    """

    kind: str
    text: str
    mask: Mask | None = None
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class RawTruth:
    """The truth of a pair as its source has it.

    Attributes:
        mask: of what the caption names: an array (H, W) bool, or an image whose light half is inside.
        boxes: (left, top, width, height) each, in pixels of the picture; in place of a mask.
        content: character spans of the caption's content words.
        others: other captions.
        contains: names of what is in the picture, where all of it is known (at most 32).
        named: names of what the caption says (at most 4): it is true of any picture that contains all of them.
        label: the class of the picture.
    """

    mask: ImageLike | Mask | None = None
    boxes: Sequence[Sequence[float]] | None = None
    content: list[tuple[int, int]] | None = None
    others: list[OtherCaption] = field(default_factory=list)
    contains: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    label: str | None = None

    def with_other(self, other: OtherCaption) -> RawTruth:
        """The same with one more caption."""
        return replace(self, others=[*self.others, other])


@dataclass(frozen=True)
class Truth:
    """The same, read.

    Attributes:
        mask: (H, W) bool, at the picture's size; None where there is none.
        content: character spans; None where that is not known.
        others: other captions.
        resized: whether the mask had another size than the picture.
        contains: names of what is in the picture.
        named: names of what the caption says.
        label: the class of the picture.
    """

    mask: Mask | None
    content: list[tuple[int, int]] | None
    others: list[OtherCaption]
    resized: bool = False
    contains: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    label: str | None = None

    def content_tokens(self, offsets: Sequence[tuple[int, int]]) -> list[bool] | None:
        """Which tokens, given their characters, are (part of) content words."""
        if self.content is None:
            return None
        return [any(start < stop and first < end for first, stop in self.content) for start, end in offsets]


def read_truth(raw: RawTruth, size: tuple[int, int], timeout: float) -> Truth:
    """Make the mask of a picture of ``size`` (width, height).

    Raises:
        PairError: if the mask or a box can't be read.
    """
    mask, resized = _mask(raw, size, timeout)
    return Truth(mask, raw.content, raw.others, resized, raw.contains, raw.named, raw.label)


def _mask(raw: RawTruth, size: tuple[int, int], timeout: float) -> tuple[Mask | None, bool]:
    if raw.boxes is not None:
        return _boxed(raw.boxes, size), False
    if raw.mask is None:
        return None, False
    if isinstance(raw.mask, np.ndarray) and raw.mask.dtype == np.bool_:
        mask = raw.mask
    else:
        try:
            mask = np.asarray(read_image(raw.mask, timeout)[0].convert("L")) >= _HALF
        except PairError as error:
            raise PairError(f"the mask: {error}") from None
    resized = mask.shape != size[::-1]
    if resized:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return mask, resized


def _boxed(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask:
    mask = np.zeros(size[::-1], np.bool_)
    for box in boxes:
        try:
            left, top, width, height = (float(value) for value in box)
            first, last = (round(left), round(top)), (round(left + width), round(top + height))
        except (TypeError, ValueError, OverflowError):
            raise PairError(f"a box must be [left, top, width, height] in pixels, got {box!r}") from None
        mask[max(first[1], 0) : max(last[1], 0), max(first[0], 0) : max(last[0], 0)] = True
    return mask


def gibberish(key: str, words: int) -> str:
    """So many words of random consonants, keyed by the pair.

    >>> gibberish("pairs.csv:7", 2)
    'chnbt bpvgl'
    """
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8])
    letters = np.random.default_rng(seed).choice(list("bcdfghjklmnpqrstvwxz"), (max(words, 1), 5))
    return " ".join("".join(word) for word in letters)
