"""Which files a path stands for: one, a folder, a glob, a brace range, or URLs of these."""

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
    """Which of ``ENDINGS`` a file has.

    >>> ending_of("https://example.org/a.TAR.GZ?download=true")
    '.tar.gz'
    """
    name = basename(file).lower()
    return next((ending for ending in ENDINGS if name.endswith(ending)), None)


def basename(file: str) -> str:
    """The last part of a path or URL."""
    return (re.split(r"[?#]", file)[0] if file.startswith("http") else file).rpartition("/")[2]


def is_a_pattern(path: str) -> bool:
    """Whether it stands for several."""
    return glob.has_magic(path) or "{" in path


def find_files(path: str) -> list[str]:
    """The files that a path stands for, sorted: of a folder or a glob only those with one of ``ENDINGS``, if any.

    Returns:
        Absolute paths, or URLs; none if there is no such path, or if a folder has no shards.

    Raises:
        M2IBError: if a pattern matches nothing, or a URL can't be looked into.
    """
    if "://" in path:
        try:
            found = [file for url in expand_braces(path) for file in _find_urls(url)]
        except Exception as error:  # of any file system
            raise M2IBError(f"data.path={path!r} could not be read: {reason_of(error)}") from error
    else:
        found = _find_paths(path, os.path.expanduser(path))
    return sorted({file for file in found if ending_of(file) is not None} or set(found))


def _find_paths(path: str, expanded: str) -> list[str]:
    if os.path.isdir(expanded):
        return _shards_of(expanded)
    if os.path.isfile(expanded) or not is_a_pattern(path):
        return _absolute([expanded])
    patterns = expand_braces(expanded)
    found = [_absolute([pattern, *glob.glob(pattern, recursive=True)]) for pattern in patterns]
    missing = [pattern for pattern, files in zip(patterns, found, strict=True) if not files]
    if missing:
        more = f", nor of {len(missing) - 1} more of {len(patterns)}" if len(missing) > 1 else ""
        raise M2IBError(f"data.path={path!r}: there is no file of the name {missing[0]!r}{more}{_instead(missing[0])}")
    return [file for files in found for file in files]


def _shards_of(folder: str) -> list[str]:
    files = _absolute([entry.path for entry in os.scandir(folder) if not entry.name.startswith(".")])
    return [file for file in files if ending_of(file) is not None]


def _absolute(paths: list[str]) -> list[str]:
    """Those that are files; absolute, for the working directory may change."""
    return [Path(path).absolute().as_posix() for path in paths if os.path.isfile(path)]


def _instead(pattern: str) -> str:
    folder = Path(pattern).parent
    if is_a_pattern(str(folder)):
        return ""
    if not folder.is_dir():
        return f", nor a folder {str(folder)!r}"
    names = sorted(basename(file) for file in _shards_of(str(folder)))
    if not names:
        return f": the folder has no {KINDS} files"
    return f": the folder has {names[0]}" + (f" to {names[-1]} ({len(names)} files)" if len(names) > 1 else "")


def _find_urls(url: str) -> list[str]:
    """One URL, or those of a glob or folder; those of a brace range are not looked for."""
    if ending_of(url) is not None and "*" not in url:
        return [url]
    import fsspec  # type: ignore[import-untyped]

    system, root = fsspec.core.url_to_fs(url)
    found = system.glob(root) if "*" in url else system.ls(root, detail=False)
    files = [system.unstrip_protocol(file) for file in found if not basename(file).startswith(".")]
    if not any(ending_of(file) for file in files):
        raise ValueError(f"{url!r} has no {KINDS} files")
    return files


def expand_braces(path: str) -> list[str]:
    """The paths that ``{00..12}`` and ``{a,b}`` stand for.

    >>> expand_braces("{a,b}/{08..10}.tar")
    ['a/08.tar', 'a/09.tar', 'a/10.tar', 'b/08.tar', 'b/09.tar', 'b/10.tar']
    """
    brace = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", path)
    if brace is None:
        return [path]
    if brace[3] is None:
        first, last = sorted((int(brace[1]), int(brace[2])))
        width = max(map(len, brace.group(1, 2))) if "0" in (brace[1][0], brace[2][0]) else 0
        words = [f"{number:0{width}d}" for number in range(first, last + 1)]
    else:
        words = brace[3].split(",")
    rests = expand_braces(path[brace.end() :])
    return [path[: brace.start()] + word + rest for word in words for rest in rests]


def name_files(files: list[str]) -> tuple[list[str], Path]:
    """The names of files, with a path where they are not unique, and the folder that they have in common.

    >>> names, folder = name_files(["/data/a/0.tar", "/data/b/0.tar"])
    >>> names, folder.as_posix()
    (['a/0.tar', 'b/0.tar'], '/data')
    """
    parts = [file.split("/") for file in files]
    same = takewhile(lambda level: len(set(level)) == 1, zip(*(part[:-1] for part in parts), strict=False))
    common = [level[0] for level in same]
    names = [basename(file) for file in files]
    if len(set(names)) < len(names):
        names = ["/".join(part[len(common) :]) for part in parts]
    return names, Path() if "://" in files[0] else Path("/".join(common) or "/")


@contextmanager
def opened(file: str) -> Iterator[io.BufferedReader]:
    """A path or URL, to read."""
    if "://" not in file:
        with open(file, "rb") as local:
            yield local
        return
    import fsspec

    with fsspec.open(file, "rb") as raw, io.BufferedReader(raw) as remote:
        yield remote


def reason_of(error: BaseException) -> str:
    """Why, in a line."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return str(error).strip().split("\n")[0] or type(error).__name__
