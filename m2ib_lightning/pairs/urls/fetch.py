"""Fetch images at URLs: many downloads at once, and a cache on disk."""

from __future__ import annotations

import hashlib
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from m2ib_lightning.errors import PairError, quoted
from m2ib_lightning.files import atomic_write
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.pairs.urls.download import download
from m2ib_lightning.pairs.urls.url_settings import UrlSettings

_warn_once = threading.Lock()  # the first warning about the cache acquires it and never releases it


def fetch(url: str, settings: UrlSettings, images: ImageRules | None = None) -> bytes:
    """Return the body at a URL, from the cache if it is there.

    Only a body that can be decoded goes to the cache. There it is not checked again, except with
    ``settings.check_cache``.

    Args:
        url: HTTP or HTTPS URL of the image.
        settings: limits and permissions.
        images: formats, size and time limit of images; None for the defaults.

    Raises:
        PairError: if the URL is refused or the download fails. The message gives the reason, the tries and the remedy.
    """
    url = url.strip()
    if not settings.allow:
        raise PairError(
            f"the image {quoted(url)} was not downloaded: images at URLs are only downloaded with data.allow_urls=true"
        )
    file = _cache_file(url, settings)
    body = _read_cache(file) if file else None
    if body is not None and settings.check_cache and not _is_picture(body, images):
        body = None
    if body is None:
        body = download(url, settings)
        if file and _is_picture(body, images):
            _write_cache(file, body)
    return body


def fetch_all(urls: Sequence[str], settings: UrlSettings, images: ImageRules | None = None) -> list[bytes | PairError]:
    """Return the bodies at several URLs in order, with an error in place of each failed download.

    At most ``settings.connections`` downloads run at once; a repeated URL is downloaded once.
    """

    def fetch_one(url: str) -> bytes | PairError:
        try:
            return fetch(url, settings, images)
        except PairError as error:
            return error

    unique = list(dict.fromkeys(urls))
    if not unique:
        return []
    with ThreadPoolExecutor(min(settings.connections, len(unique))) as pool:
        outcomes = dict(zip(unique, pool.map(fetch_one, unique), strict=True))
    return [outcomes[url] for url in urls]


def _is_picture(body: bytes, images: ImageRules | None) -> bool:
    try:
        read_image(body, images)
    except PairError:
        return False
    return True


def _cache_file(url: str, settings: UrlSettings) -> Path | None:
    if settings.cache is None:
        return None
    name = hashlib.sha256(url.encode("utf-8", "surrogatepass")).hexdigest()
    return Path(settings.cache).expanduser() / name[:2] / name


def _read_cache(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        _warn(file, error)
        return None


def _write_cache(file: Path, body: bytes) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with atomic_write(file) as opened:
            opened.write(body)
    except OSError as error:
        _warn(file, error)


def _warn(file: Path, error: OSError) -> None:
    if _warn_once.acquire(blocking=False):
        warnings.warn(
            f"downloaded images are not cached: {file} in data.url_cache can't be used ({error.strerror or error})",
            stacklevel=2,
        )
