"""Find the files of a path: a file, a folder, a glob, a brace range, or a URL of one of these."""

from __future__ import annotations

import glob
import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path

from m2ib_lightning.errors import M2IBError

TAR = (".tar", ".tar.gz", ".tgz")
PARQUET = (".parquet",)
ENDINGS = (*TAR, *PARQUET)
KINDS = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"


def ending_of(file: str) -> str | None:
    """Return which of ``ENDINGS`` a file name has, or None.

    >>> ending_of("https://example.org/a.TAR.GZ?download=true")
    '.tar.gz'
    """
    name = basename(file).lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)


def basename(file: str) -> str:
    """Return the last part of a path or URL."""
    return (re.split(r"[?#]", file)[0] if file.startswith("http") else file).rpartition("/")[2]


def is_pattern(path: str) -> bool:
    """Return whether a path is a glob or a brace range."""
    return glob.has_magic(path) or "{" in path


def find_files(path: str) -> list[str]:
    """Find the files of a path. Files without one of ``ENDINGS`` are returned only if no file has one.

    Returns:
        Absolute paths or URLs, sorted; empty if the path does not exist, or is a folder without shards.

    Raises:
        M2IBError: if a pattern matches nothing, or a URL can't be listed.
    """
    if "://" in path:
        try:
            files = [file for url in expand_braces(path) for file in _find_urls(url)]
        except Exception as error:  # each file system has its own errors
            raise M2IBError(f"data.path={path!r} could not be read: {reason_of(error)}") from error
    else:
        files = _find_paths(path, os.path.expanduser(path))
    return sorted({file for file in files if ending_of(file) is not None} or set(files))


def _find_paths(path: str, expanded: str) -> list[str]:
    if os.path.isdir(expanded):
        return _shards_in(expanded)
    if os.path.isfile(expanded) or not is_pattern(path):
        return _absolute_files([expanded])
    patterns = expand_braces(expanded)
    matches = [_absolute_files([pattern, *glob.glob(pattern, recursive=True)]) for pattern in patterns]
    missing = [pattern for pattern, files in zip(patterns, matches, strict=True) if not files]
    if missing:
        more_missing = f", nor {len(missing) - 1} more of the {len(patterns)}" if len(missing) > 1 else ""
        names = f"{missing[0]!r}{more_missing}{_suggestion(missing[0])}"
        raise M2IBError(f"data.path={path!r}: there is no file named {names}")
    return [file for files in matches for file in files]


def _shards_in(folder: str) -> list[str]:
    files = _absolute_files([entry.path for entry in os.scandir(folder) if not entry.name.startswith(".")])
    return [file for file in files if ending_of(file) is not None]


def _absolute_files(paths: list[str]) -> list[str]:
    """Return the paths that are files, as absolute paths: the working directory may change."""
    return [Path(path).absolute().as_posix() for path in paths if os.path.isfile(path)]


def _suggestion(pattern: str) -> str:
    """The part of the error message that says what the folder of a pattern holds instead."""
    folder = Path(pattern).parent
    if is_pattern(str(folder)):
        return ""
    if not folder.is_dir():
        return f", nor a folder {str(folder)!r}"
    names = sorted(basename(file) for file in _shards_in(str(folder)))
    if not names:
        return f": the folder has no {KINDS} files"
    return f": the folder has {names[0]}" + (f" to {names[-1]} ({len(names)} files)" if len(names) > 1 else "")


def _find_urls(url: str) -> list[str]:
    """List the files of a glob or folder; a URL of one file is returned without a look-up."""
    if ending_of(url) is not None and "*" not in url:
        return [url]
    import fsspec  # type: ignore[import-untyped]

    system, root = fsspec.core.url_to_fs(url)
    paths = system.glob(root) if "*" in url else system.ls(root, detail=False)
    files = [system.unstrip_protocol(file) for file in paths if not basename(file).startswith(".")]
    if not any(ending_of(file) for file in files):
        raise ValueError(f"{url!r} has no {KINDS} files")
    return files


def expand_braces(path: str) -> list[str]:
    """Expand ``{00..12}`` and ``{a,b}`` in a path.

    >>> expand_braces("{a,b}/{08..10}.tar")
    ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar', 'b/09.tar', 'b/10.tar']
    """
    brace = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", path)
    if brace is None:
        return [path]
    if brace[3] is None:
        first, last = sorted((int(brace[1]), int(brace[2])))
        width = max(map(len, brace.group(1, 2))) if "0" in (brace[1][0], brace[2][0]) else 0
        values = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        values = brace[3].split(",")
    suffixes = expand_braces(path[brace.end() :])
    return [path[: brace.start()] + value + suffix for value in values for suffix in suffixes]


def name_files(files: list[str]) -> tuple[list[str], Path]:
    """Return a unique name for each file, and the folder that contains them all.

    A name includes part of the path if the file names alone are not unique.

    >>> names, folder = name_files(["/data/a/0.tar", "/data/b/0.tar"])
    >>> names, folder.as_posix()
    (['a/0.tar', 'b/0.tar'], '/data')
    """
    parts = [file.split("/") for file in files]
    common_levels = takewhile(lambda level: len(set(level)) == 1, zip(*(part[:-1] for part in parts), strict=False))
    common = [level[0] for level in common_levels]
    names = [basename(file) for file in files]
    if len(set(names)) < len(names):
        names = ["/".join(part[len(common) :]) for part in parts]
    return names, Path() if "://" in files[0] else Path("/".join(common) or "/")


@contextmanager
def open_file(file: str) -> Iterator[io.BufferedReader]:
    """Open a path or URL for reading."""
    if "://" not in file:
        with open(file, "rb") as local:
            yield local
        return
    import fsspec

    with fsspec.open(file, "rb") as raw, io.BufferedReader(raw) as remote:
        yield remote


def reason_of(error: BaseException) -> str:
    """Return the reason of an error in one line."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return str(error).strip().split("\n")[0][:500] or type(error).__name__
