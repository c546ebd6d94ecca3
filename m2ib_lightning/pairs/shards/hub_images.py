"""Images that a row of a hub data set names by the URL of a file on the hub."""

from __future__ import annotations

from typing import Any

from m2ib_lightning.errors import PairError, shortened
from m2ib_lightning.pairs.shards.shard_files import open_file, reason_of
from m2ib_lightning.pairs.shards.tar import MAX_SAMPLE_BYTES

_HUB_SCHEMES = {"hf", "zip", "gzip", "bz2", "xz", "zstd", "lz4"}
"""Schemes of the image paths that ``datasets`` makes itself."""


def with_image_bytes(row: dict[str, Any], columns: list[str]) -> dict[str, Any] | PairError:
    """Fetch the images that a row gives by URL, as in an image folder on a hub or in a zip.

    A URL of another kind stays: images from the web are only downloaded with ``data.allow_urls``.
    """
    for column in columns:
        cell = row[column]
        if isinstance(cell, dict) and cell.get("bytes") is None and _is_of_the_hub(cell.get("path") or ""):
            try:
                with open_file(cell["path"]) as image:
                    content = image.read(MAX_SAMPLE_BYTES + 1)
            except Exception as error:  # each file system has its own errors
                return PairError(f"{shortened(cell['path'])} could not be fetched: {reason_of(error)}")
            if len(content) > MAX_SAMPLE_BYTES:
                return PairError(f"{shortened(cell['path'])} has more than {MAX_SAMPLE_BYTES:,} bytes")
            row[column] = cell | {"bytes": content}
    return row


def _is_of_the_hub(path: str) -> bool:
    """Whether a path is a file of a hub data set, or of an archive in one or on this machine."""
    schemes = [part.partition("://")[0] for part in path.split("::") if "://" in part]
    return bool(schemes) and set(schemes) <= _HUB_SCHEMES
