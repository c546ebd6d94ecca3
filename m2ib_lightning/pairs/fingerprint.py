"""Fingerprints of pairs, by which a resumed run sees that its data have changed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from m2ib_lightning.pairs.pair import RawPair

_BYTES = 8
"""Length of a digest. Two versions of one pair are alike by chance once in 2^64."""


def fingerprint(raw: RawPair) -> str:
    """Return two times 16 hex digits, for what the source says of a pair and for the content of its image.

    The first half changes with the caption and the image's reference. The second half changes with the size and time
    of change of a file, or with the bytes of an image in a table or a shard. An image at a URL counts by the URL.
    """
    return f"{_digest(raw.caption, raw.uri)}-{_digest(raw.error, *_facts_of_image(raw))}"


def same_reference(one: str, other: str) -> bool:
    """Return whether two fingerprints agree in the caption and the image's reference."""
    return one.partition("-")[0] == other.partition("-")[0]


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


def file_state(path: str | Path) -> tuple[int, int] | None:
    """Return the size in bytes and the time of change in ns of a file; None if there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):  # a URL, base64 text, or a name that no file can have
        return None
    return facts.st_size, facts.st_mtime_ns
