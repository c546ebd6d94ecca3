"""Which captions are true of which pictures of a batch, as far as is known.

Pictures and captions of all ranks must be compared. Each one is therefore described by a row of numbers, its signature,
which ranks can gather.

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
    """Return the signatures (B, 34) of the pictures: the picture, its caption, and what it contains."""
    return torch.tensor([_picture(pair) for pair in pairs])


def caption_signatures(pairs: Sequence[Pair], hard_negatives: int = 0) -> Tensor:
    """Return the signatures (C, 6) of the captions: the picture, the caption, and what it names.

    C is B (1 + ``hard_negatives``). The pairs' own captions come first, then the hard negatives of the first pair, of
    the second, and so on.
    """
    rows = []
    for pair in pairs:
        named = pair.truth.named if pair.truth is not None else ()
        rows.append([_number(pair.image), _caption(pair.caption), *_padded(named, _NAMED)])
    for negative in (negative for pair in pairs for negative in pair.other_captions(hard_negatives)):
        rows.append([_NOTHING, _caption(negative.text), *_padded(negative.named, _NAMED)])
    return torch.tensor(rows)


def owners(pictures: int, captions: int) -> Tensor:
    """Return the index of the picture that each caption came with, (C,), in the order of ``caption_signatures``."""
    first = torch.arange(pictures)
    return torch.cat([first, first.repeat_interleave(captions // pictures - 1)])


def positives(pictures: Tensor, captions: Tensor) -> Tensor:
    """Return whether each caption j is known to be true of each picture i, (B, C) bool.

    A caption is true of a picture if both are of one pair or of one picture. It is also true if it has the text of the
    picture's own caption, or if the picture contains all that it names.

    Args:
        pictures: (B, 34), signatures of the pictures.
        captions: (C, 6), signatures of the captions.
    """
    image, text, contains = pictures.split([1, 1, _CONTAINED], dim=1)
    caption_image, caption_text, named = captions.split([1, 1, _NAMED], dim=1)
    same = (image == caption_image.T) | (text == caption_text.T)
    names_something = (named != _NOTHING).any(-1)
    if not names_something.any():  # a table's captions name nothing: skip 128 comparisons for each
        return same
    true = names_something[None].expand(len(image), -1)
    for name in named.T:  # in a loop: one comparison of all would take 128 values for each picture and caption
        contained = torch.zeros_like(true)
        for thing in contains.T:
            contained |= thing[:, None] == name[None]
        true = true & (contained | (name == _NOTHING)[None])
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
