"""Files that a later start reads: written atomically, never half, and read with care."""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import yaml

from m2ib_lightning.errors import M2IBError

_YAML_BYTES = 1 << 20
"""Largest size of a YAML file that is read, in bytes."""

_YAML_DEPTH = 16
"""Largest number of nested lists and mappings in a YAML file that is read."""


_EXPONENT = re.compile(r"[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9][0-9_]*)[eE][-+]?[0-9]+$")
_NUMBER = ("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # in C: ten times as fast
    """YAML of plain types as OmegaConf reads it: 1e-3 is a number, and a date is text."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


class _Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
    """YAML of plain types, in which text that looks like a number or a date is quoted."""


_Loader.add_implicit_resolver(*_NUMBER)
_Dumper.add_implicit_resolver(*_NUMBER)


@contextmanager
def atomic_write(path: Path, *, sync: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file next to ``path`` for writing.

    At the end of the context the file is synced and renamed to ``path``. After an error it is removed.

    Args:
        path: path of the file.
        sync: whether to wait until the disk has it; without that, a loss of power may leave an empty file.
    """
    temporary = _beside(path)
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def atomic_write_text(path: Path, text: str) -> None:
    """Write text atomically as UTF-8. Characters that UTF-8 can't encode become ``?``."""
    with atomic_write(path) as file:
        file.write(text.encode("utf-8", "replace"))


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Create a temporary folder next to ``path``, to be filled.

    At the end of the context its files are synced and it is renamed to ``path``. An older folder of that name is moved
    aside first and removed afterwards. Files that only the older folder has are kept, but not its weights. After an
    error the temporary folder is removed and the older one stays.
    """
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        if path.is_dir():
            _keep_other_files(path, temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
        older = _beside(path)
        if path.exists():
            path.rename(older)
        try:
            temporary.rename(path)
        except BaseException:
            if older.exists():
                older.rename(path)
            raise
        shutil.rmtree(older, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _keep_other_files(older: Path, newer: Path) -> None:
    for file in older.iterdir():
        if file.is_file() and ".safetensors" not in file.name and not (newer / file.name).exists():
            shutil.copy2(file, newer)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of atomic writes in a folder to which no live process writes."""
    for leftover in folder.glob(".*.tmp"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            with suppress(OSError):
                leftover.unlink()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file, as plain types. The file need not be trusted.

    Raises:
        M2IBError: if the file can't be read, is not UTF-8 or not YAML, is too large or nested too deeply, has aliases
            (which can stand for more than any memory holds), or does not hold keys and values.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_YAML_BYTES + 1)
        if len(data) > _YAML_BYTES:
            raise M2IBError(f"{path} has more than {_YAML_BYTES} bytes")
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise M2IBError(f"{path} must be text in UTF-8, but byte {error.start} is not") from None
    except OSError as error:
        raise M2IBError(f"{path} could not be read as YAML: {first_line(error)}") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, name: str) -> dict[str, Any]:
    """Return the keys and values of YAML text, as ``read_yaml`` does; error messages call it ``name``."""
    try:
        _check_structure(text, name)
        values = yaml.load(text, Loader=_Loader)  # a safe loader
    except (ValueError, OverflowError, RecursionError, yaml.YAMLError) as error:
        raise M2IBError(f"{name} could not be read as YAML: {first_line(error)}") from None
    if not isinstance(values, dict):
        raise M2IBError(f"{name} must hold keys and values, got {_kind(values)}")
    return values


def dump_yaml(values: dict[str, Any]) -> str:
    """Return keys and values of plain types as YAML text, in their order."""
    return str(yaml.dump(values, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False))


def _check_structure(text: str, name: str) -> None:
    """Check the depth of YAML text, before anything is built from it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.AliasEvent):
            raise M2IBError(f"{name} has an alias (*{event.anchor}): write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _YAML_DEPTH:
            raise M2IBError(f"{name} is nested more than {_YAML_DEPTH} deep")


def _kind(value: Any) -> str:
    return "nothing" if value is None else "a list" if isinstance(value, list) else "text or a number"


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
