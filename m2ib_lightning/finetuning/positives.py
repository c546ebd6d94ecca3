"""Which captions are true of which pictures of a batch, as far as is known.

Pictures and captions of all ranks must be compared, so what is known of each is a row of numbers, its print: numbers
can be gathered.

Legend: B pictures, C captions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from m2ib_lightning.pairs.pair import Pair

_NAMED, _CONTAINED, _NOTHING = 4, 32, 0


def picture_signatures(pairs: Sequence[Pair]) -> Tensor:
    """(B, 34): numbers for the picture, its caption, and what it contains."""
    return torch.tensor([_picture(pair) for pair in pairs])


def caption_signatures(pairs: Sequence[Pair], hard_negatives: int = 0) -> Tensor:
    """(C, 6): numbers for the picture, the caption, and what it names; C = B (1 + ``hard_negatives``).

    First the pairs' own captions, then the first so many others of the first pair, of the second, and so on.
    """
    rows = []
    for pair in pairs:
        named = pair.truth.named if pair.truth is not None else ()
        rows.append([_number(pair.image), _caption(pair.caption), *_padded(named, _NAMED)])
    for other in (other for pair in pairs for other in pair.other_captions(hard_negatives)):
        rows.append([_NOTHING, _caption(other.text), *_padded(other.named, _NAMED)])
    return torch.tensor(rows)


def owners(pictures: int, captions: int) -> Tensor:
    """(C,): which picture each caption came with, in the order of ``caption_signatures``."""
    own = torch.arange(pictures)
    return torch.cat([own, own.repeat_interleave(captions // pictures - 1)])


def positives(pictures: Tensor, captions: Tensor) -> Tensor:
    """(B, C): where caption j is true of picture i, as far as is known.

    They are of one pair, of one picture, or j says what i's own caption says; or i contains all that j names.

    Args:
        pictures: (B, 34) prints.
        captions: (C, 6) prints.
    """
    image, text, contains = pictures.split([1, 1, _CONTAINED], dim=1)
    other_image, other_text, named = captions.split([1, 1, _NAMED], dim=1)
    same = (image == other_image.T) | (text == other_text.T)
    says = (named != _NOTHING).any(-1)
    if not says.any():  # of a table nothing is known: no 128 comparisons for nothing
        return same
    true = says[None].expand(len(image), -1)
    for word in named.T:  # one at a time: together they would take 128 numbers for each picture and caption
        inside = torch.zeros_like(true)
        for thing in contains.T:
            inside |= thing[:, None] == word[None]
        true = true & (inside | (word == _NOTHING)[None])
    return same | true


def _picture(pair: Pair) -> list[int]:
    contains = pair.truth.contains if pair.truth is not None else ()
    return [_number(pair.image), _caption(pair.caption), *_padded(contains, _CONTAINED)]


def _padded(names: Sequence[str], size: int) -> list[int]:
    return [_number(name) for name in names[:size]] + [_NOTHING] * (size - len(names))


def _caption(text: str | None) -> int:
    return _number((text or "").strip().lower())


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7]) + 1
