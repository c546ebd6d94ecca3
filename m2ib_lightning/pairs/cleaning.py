"""Captions that are cleaned before they are tokenised, and where their tokens lie in the caption as it was given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher

Clean = Callable[[str], str]
"""Function from a caption to the caption that a tokenizer splits."""

_SPAN = 8
"""Longest part of a caption that is compared, in times the length of the cleaned part."""


def original_offsets(offsets: Sequence[tuple[int, int]], cleaned: str, caption: str) -> list[tuple[int, int]]:
    """Return the offsets of tokens in a caption, from their offsets in the cleaned caption.

    A character that the cleaning has replaced gets the span of what it stands for.

    >>> original_offsets([(0, 1), (2, 3), (4, 7)], "a < dog", "A &lt; Dog")
    [(0, 1), (2, 6), (7, 10)]
    """
    used = max((end for _, end in offsets), default=0)
    before, after = caption[: _SPAN * used + 64], cleaned[:used]
    starts, ends = list(range(len(after))), list(range(1, len(after) + 1))
    # letter by letter, because lower() may change the length of a caption
    matcher = SequenceMatcher(None, [c.lower() for c in before], [c.lower() for c in after], autojunk=False)
    for kind, low, high, start, end in matcher.get_opcodes():
        for index in range(start, end):
            one_to_one = kind == "equal" or high - low == end - start
            starts[index] = low + index - start if one_to_one else low
            ends[index] = low + index - start + 1 if one_to_one else high
    return [(starts[start], ends[end - 1]) if start < end else (0, 0) for start, end in offsets]
