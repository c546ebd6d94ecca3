"""Paths of images as people write them in tables: with ``~``, as ``file://`` URLs, with backslashes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.request import url2pathname

from m2ib_lightning.errors import PairError, quoted

_FILE_URL = re.compile(r"file:(?://([^/\\]*))?(?=[/\\]|$)(.*)", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
_OF_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\+[^\\]")
"""The beginning of a whole path of Windows: with a drive, or from the root of one, or on a share."""


def image_path(cell: str, root: Path) -> str | Path:
    r"""Return the path of an image, or its URL.

    A path that exists as it is written stays as it is. Else spaces around it are dropped, backslashes are separators,
    and ``~/`` is the home of the user who runs this, never that of another user.

    Args:
        cell: path or URL in a table.
        root: folder of relative paths.

    >>> image_path("photographs\\cat.jpg", Path("/data")).as_posix()
    '/data/photographs/cat.jpg'

    Raises:
        PairError: if the path belongs to another machine or user, or if two files could be meant.
    """
    text = cell.strip()
    if (url := _FILE_URL.fullmatch(text)) is not None:
        return _local_file(text, url[1] or "", url[2])
    if "://" in cell and not _DRIVE.match(text):
        return cell
    literal = _below(root, cell)
    if os.name == "nt" or _is_plain(cell):
        return literal
    other = _other_reading(text, root)
    if not os.path.exists(literal):
        if isinstance(other, PairError):
            raise other
        return other
    if isinstance(other, Path) and other != literal and os.path.exists(other):
        raise PairError(f"the image {quoted(cell)} may be {quoted(str(literal))} or {quoted(str(other))}: rename one")
    return literal


def _is_plain(cell: str) -> bool:
    has_separators = "\\" in cell and cell.strip("\\") != ""
    return not (has_separators or cell.startswith("~") or cell != cell.strip() or _DRIVE.match(cell))


def _other_reading(text: str, root: Path) -> Path | PairError:
    if _OF_WINDOWS.match(text):
        return _of_windows(text)
    path = text.replace("\\", "/")
    start, slash, rest = path.partition("/")
    if start == "~" and slash:
        return Path.home() / rest.lstrip("/")
    if start.startswith("~") and slash:
        return PairError(
            f"the image {quoted(text)} is in the home of another user, and only ~/ is followed, which is your own: "
            "give the path from /, or ./~... for a folder of that name"
        )
    return _below(root, path)


def _local_file(text: str, host: str, path: str) -> Path:
    if _DRIVE.match(f"{host}/") or _DRIVE.match(path.lstrip("/\\")):
        raise _of_windows(text)
    if host.lower() not in ("", "localhost") or path.startswith(("//", "\\")):
        raise PairError(
            f"the image {quoted(text)} is on another machine, and file: URLs are only read of this one: write "
            "file:///PATH, with the whole path, or mount the folder"
        )
    if not path.strip("/"):
        raise PairError(f"the image {quoted(text)} names no file: write file:///PATH, with the whole path")
    return Path(url2pathname(path))


def _of_windows(text: str) -> PairError:
    return PairError(
        f"the image {quoted(text)} is a whole path of Windows, which does not exist here: write paths that start at "
        "data.image_root, such as folder\\cat.jpg or folder/cat.jpg"
    )


def _below(root: Path, path: str) -> Path:
    """A path below a folder; with ``~`` in front it becomes absolute, so that nobody expands it."""
    joined = root / path
    return joined.absolute() if str(joined).startswith("~") else joined
