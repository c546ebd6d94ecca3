"""Ground truth of a pair, for scoring its maps: where the caption's object is, and which words matter.

Legend: H x W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from m2ib_lightning.errors import PairError, quoted
from m2ib_lightning.pairs.annotations.coordinates import Mask as Mask
from m2ib_lightning.pairs.annotations.coordinates import checked_box
from m2ib_lightning.pairs.exif import Turn, check_shape, is_of_stored, stored_size, turned
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import ImageLike, read_image

_MASK_THRESHOLD = 128
"""Lowest grey value that is inside a mask."""


_MAX_BOXES = 10_000
"""Largest number of boxes of a pair."""


@dataclass(frozen=True)
class OtherCaption:
    """Another caption for the same picture.

    Attributes:
        kind: ``present`` (names another object of the picture), ``absent`` (names an object that is not in it),
            ``gibberish``, ``shuffled`` (caption of another pair), or ``given`` (hard negative of a table or course).
        text: text of the caption.
        mask: mask (H, W) bool of what the caption names; None if unknown.
        named: names that the caption states, as in ``RawTruth.named``; empty if no known picture matches it.
    """

    kind: str
    text: str
    mask: Mask | None = None
    named: tuple[str, ...] = ()


@dataclass(frozen=True)
class NamedPart:
    """A part of a caption, and where the picture shows what it names.

    Attributes:
        start: index of the first character in the caption.
        end: index after the last character.
        mask: mask (H, W) bool at the picture's size.
    """

    start: int
    end: int
    mask: Mask


@dataclass(frozen=True)
class RawTruth:
    """Ground truth of a pair as its source provides it.

    Attributes:
        mask: mask of what the caption names: an array (H, W) bool, an image that is light inside, or a function that
            draws such an array; the worker that reads the pair calls it.
        boxes: boxes (left, top, width, height) in pixels of the picture; they replace the mask.
        content: character spans of the caption's content words.
        others: other captions for the picture.
        contains: names of everything in the picture, if all of it is known (at most 32).
        named: names that the caption states (at most 4); it is true of any picture that contains them all.
        label: class of the picture.
        size: (width, height) of the picture that the mask or the boxes were made for; None for the picture itself.
        parts: parts of the caption that name one thing each, and where the picture shows it.
    """

    mask: ImageLike | Mask | Callable[[], Mask] | None = None
    boxes: Sequence[Sequence[float]] | None = None
    content: list[tuple[int, int]] | None = None
    others: list[OtherCaption] = field(default_factory=list)
    contains: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    label: str | None = None
    size: tuple[int, int] | None = None
    parts: list[NamedPart] = field(default_factory=list)

    def with_other(self, other: OtherCaption) -> RawTruth:
        """Return the same truth with one more caption."""
        return replace(self, others=[*self.others, other])


@dataclass(frozen=True)
class Truth:
    """Ground truth of a pair after reading its mask.

    Attributes:
        mask: mask (H, W) bool at the picture's size; None without a mask.
        content: character spans of the caption's content words; None if unknown.
        others: other captions for the picture.
        resized: whether the mask was resized to the picture's size.
        contains: names of everything in the picture.
        named: names that the caption states.
        label: class of the picture.
        parts: parts of the caption that name one thing each, and where the picture shows it.
    """

    mask: Mask | None
    content: list[tuple[int, int]] | None
    others: list[OtherCaption]
    resized: bool = False
    contains: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    label: str | None = None
    parts: list[NamedPart] = field(default_factory=list)

    def content_tokens(self, offsets: Sequence[tuple[int, int]]) -> list[bool] | None:
        """Return whether each token overlaps a content word; None if the content words are unknown.

        Args:
            offsets: character spans of the tokens.
        """
        if self.content is None:
            return None
        return [any(start < word[1] and word[0] < end for word in self.content) for start, end in offsets]


def read_truth(
    raw: RawTruth, size: tuple[int, int], rules: ImageRules | None = None, turn: Turn | None = None
) -> Truth:
    """Read the ground truth of a pair.

    Args:
        raw: truth from the source.
        size: (width, height) of the picture, to which the mask is resized.
        rules: formats, size and time limit for reading the mask; None for the defaults.
        turn: the EXIF rotation of the picture; ``is_of_stored`` says for which annotations it counts.

    Raises:
        PairError: if the mask or a box can't be read.
    """
    rules = rules or ImageRules()
    mask, resized = _read_mask(raw, size, rules, turn)
    return Truth(mask, raw.content, raw.others, resized, raw.contains, raw.named, raw.label, raw.parts)


def _read_mask(raw: RawTruth, size: tuple[int, int], rules: ImageRules, turn: Turn | None) -> tuple[Mask | None, bool]:
    of_stored = is_of_stored(raw.size, size, turn, rules.annotated_as)
    annotated = stored_size(size, turn) if of_stored else size
    if raw.size is not None:
        check_shape(raw.size, annotated)
    if raw.boxes is not None:
        mask = _mask_of_boxes(raw.boxes, raw.size or annotated)
    elif raw.mask is None:
        return None, False
    elif callable(raw.mask):
        mask = raw.mask()
    elif isinstance(raw.mask, np.ndarray) and raw.mask.dtype == np.bool_:
        mask = raw.mask
    else:
        try:
            whole = replace(rules, window="full")  # a window for pictures is none for masks
            mask = np.asarray(read_image(raw.mask, whole).picture.convert("L")) >= _MASK_THRESHOLD
        except PairError as error:
            raise PairError(f"the mask: {error}") from None
    if raw.size is None and raw.boxes is None:
        of_stored = is_of_stored((mask.shape[1], mask.shape[0]), size, turn, rules.annotated_as)
    if of_stored and turn is not None:
        mask = turned(mask, turn)
    resized = mask.shape != size[::-1]
    if resized:
        mask = np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
    return mask, resized


def _mask_of_boxes(boxes: Sequence[Sequence[float]], size: tuple[int, int]) -> Mask:
    if len(boxes) > _MAX_BOXES:
        raise PairError(f"there are {len(boxes):,} boxes; up to {_MAX_BOXES:,} are read")
    mask = np.zeros(size[::-1], np.bool_)
    for box in boxes:
        try:
            left, top, width, height = (float(value) for value in box)
            first, last = (round(left), round(top)), (round(left + width), round(top + height))
        except (TypeError, ValueError, OverflowError):
            raise PairError(f"a box must be [left, top, width, height] in pixels, got {quoted(box)}") from None
        checked_box(box, size)
        mask[max(first[1], 0) : max(last[1], 0), max(first[0], 0) : max(last[0], 0)] = True
    return mask


def gibberish(key: str, words: int) -> str:
    """Return ``words`` words of random consonants, seeded by the key of the pair.

    >>> gibberish("pairs.csv:7", 2)
    'chnbt bpvgl'
    """
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8])
    letters = np.random.default_rng(seed).choice(list("bcdfghjklmnpqrstvwxz"), (max(words, 1), 5))
    return " ".join("".join(word) for word in letters)
