"""Limits and permissions of image downloads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from m2ib_lightning.errors import M2IBError

_DAY = 86_400
_MAX_RETRIES = 100


@dataclass(frozen=True)
class UrlSettings:
    """Limits and permissions of image downloads.

    Attributes:
        allow: whether images at URLs are downloaded (``data.allow_urls``).
        allow_private: whether private, loopback, link-local, reserved and multicast addresses are allowed too
            (``data.allow_private_urls``).
        timeout: seconds for one attempt, from the host look-up to the last byte (``data.url_timeout``).
        max_bytes: size of the largest accepted body (``data.url_max_bytes``).
        retries: attempts after the first, for failures that may pass (``data.url_retries``).
        connections: largest number of simultaneous downloads in each data loader worker (``data.url_connections``).
        cache: folder for downloaded images, or None (``data.url_cache``).
        check_cache: whether an image in the cache that can't be decoded is downloaded again (``retry_failed``).

    Raises:
        M2IBError: if a value is out of range.
    """

    allow: bool = False
    allow_private: bool = False
    timeout: float = 20.0
    max_bytes: int = 50_000_000
    retries: int = 2
    connections: int = 16
    cache: Path | None = None
    check_cache: bool = False

    def __post_init__(self) -> None:
        is_number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        _check(
            is_number and 0 < self.timeout <= _DAY,
            f"data.url_timeout must be in seconds, above 0 and at most {_DAY}, got {self.timeout!r}",
        )
        for name in ("max_bytes", "connections"):
            value = getattr(self, name)
            _check(
                type(value) is int and value >= 1,
                f"data.url_{name} must be a whole number of at least 1, got {value!r}",
            )
        _check(
            type(self.retries) is int and 0 <= self.retries <= _MAX_RETRIES,
            f"data.url_retries must be a whole number from 0 to {_MAX_RETRIES}, got {self.retries!r}",
        )
        cache = os.path.expanduser(self.cache or ".")
        _check(
            os.path.isdir(cache) or not os.path.exists(cache),
            f"data.url_cache must be a folder, or not exist yet; {str(self.cache)!r} is a file",
        )


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise M2IBError(message)
