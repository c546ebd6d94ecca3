"""Fingerprints of pairs, by which a resumed run sees that its data have changed."""

from __future__ import annotations

import hashlib
import os
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.truth import RawTruth

_BYTES = 8
"""Length of a digest. Two versions of one pair are alike by chance once in 2^64."""


def fingerprint(raw: RawPair) -> str:
    """Return two or three times 16 hex digits, for what the source says of a pair and for the content of its image.

    The first part changes with the caption and the image's reference. The second part changes with the size and time
    of change of a file, or with the bytes of an image in a table or a shard. An image at a URL counts by the URL. The
    third part changes with the ground truth that scores depend on; a pair without any has none.
    """
    parts = [_digest(raw.caption, raw.uri), _digest(raw.error, *_facts_of_image(raw))]
    marks = () if raw.truth is None else _marks_of(raw.truth)
    if any(marks):
        parts.append(_digest(*marks))
    return "-".join(parts)


def without_truth(whole: str) -> str:
    """Return the parts of a fingerprint that the ground truth does not change."""
    return "-".join(whole.split("-")[:2])


def is_same(before: str, now: str, *, failed: bool = False, truth: bool = False) -> bool:
    """Return whether two fingerprints are those of one pair.

    Args:
        before: the fingerprint of a row.
        now: the fingerprint of the pair with the same key.
        failed: whether the row has an error; then a change of the image's content does not count.
        truth: whether a change of the ground truth counts.
    """
    (reference, image, *marks), (now_reference, now_image, *now_marks) = before.split("-"), now.split("-")
    if reference != now_reference or (truth and marks != now_marks):
        return False
    return failed or image == now_image


def _digest(*parts: object) -> str:
    digest = hashlib.blake2b(digest_size=_BYTES)
    for part in parts:
        text = repr(part).encode("utf-8", "surrogatepass")
        digest.update(len(text).to_bytes(8, "big") + text)
    return digest.hexdigest()


def _facts_of_image(raw: RawPair) -> tuple[object, ...]:
    image = raw.image
    if isinstance(image, bytes):
        return ("bytes", hashlib.blake2b(image, digest_size=_BYTES).hexdigest())
    if isinstance(image, str | Path):
        return ("file", file_state(image))
    return (type(image).__name__,)


def _marks_of(truth: RawTruth) -> tuple[object, ...]:
    """What scores depend on: neither the class, nor negatives, which only a training reads."""
    boxes = None if truth.boxes is None else ("boxes", _stable(list(truth.boxes)))
    others = [other for other in truth.others if other.kind != "given"]
    rest = (truth.mask, truth.size, truth.content, others, truth.contains, truth.named)
    return (boxes, *map(_stable, rest))


def _stable(value: Any) -> object:
    """Return a value whose ``repr`` is the same in every process, and differs where the given value differs."""
    if isinstance(value, partial):  # a mask that the worker draws
        return (_stable(value.func), _stable(value.args), _stable(value.keywords))
    if isinstance(value, Path):  # an image file of a mask
        return (value.name, file_state(value))
    if isinstance(value, np.ndarray):
        return (value.shape, str(value.dtype), _stable(value.tobytes()))
    if isinstance(value, Image.Image):
        return (value.size, value.mode, _stable(value.tobytes()))
    if isinstance(value, bytes):
        return hashlib.blake2b(value, digest_size=_BYTES).hexdigest()
    if isinstance(value, dict):
        return tuple((_stable(key), _stable(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_stable, value))
    if is_dataclass(value) and not isinstance(value, type):
        return tuple(_stable(getattr(value, item.name)) for item in fields(value))
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    return value


def file_state(path: str | Path) -> tuple[int, int] | None:
    """Return the size in bytes and the time of change in ns of a file; None if there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # a URL, base64 text, or a name that no file can have
        return None
    return facts.st_size, facts.st_mtime_ns
