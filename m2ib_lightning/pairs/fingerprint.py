"""Fingerprints of pairs, by which a resumed run sees that its data have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from m2ib_lightning.pairs.pair import RawPair

_BYTES = 8
"""Length of a fingerprint. Two versions of one pair are alike by chance once in 2^64."""


def fingerprint(raw: RawPair) -> str:
    """Return 16 hex digits that change with the caption, the image's reference, or its content.

    An image in a file counts by its size and time of change; one in the table, or in a shard, by its bytes. An image at
    a URL counts by the URL.
    """
    parts = (raw.caption, raw.uri, raw.error, *_facts_of_image(raw))
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


def file_state(path: str | Path) -> tuple[int, int] | None:
    """Return the size in bytes and the time of change in ns of a file; None if there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # a URL, base64 text, or a name that no file can have
        return None
    return facts.st_size, facts.st_mtime_ns
