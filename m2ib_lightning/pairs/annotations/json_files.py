"""JSON files of annotations, read whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import M2IBError, quoted

Id = int | str | None
"""An id in a file; None for a missing id, or one of another type."""


def read_json(file: Path, key: str = "data.path") -> Any:
    """Return the content of a JSON file.

    Args:
        file: path of the file.
        key: the key of the configuration that names it, for error messages.

    Raises:
        M2IBError: if the file does not exist or is not JSON; the message names the line.
    """
    try:
        with file.open(encoding="utf-8-sig") as opened:
            return json.load(opened)
    except FileNotFoundError:
        raise M2IBError(f"{key}={str(file)!r} does not exist") from None
    except IsADirectoryError:
        raise M2IBError(f"{key}={str(file)!r} is a folder: give the JSON file") from None
    except OSError as error:
        raise M2IBError(f"{key}={str(file)!r} could not be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise M2IBError(f"{key}={str(file)!r} is not UTF-8: {error.reason} at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise M2IBError(
            f"{key}={str(file)!r} is not JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        ) from None
    except (RecursionError, ValueError) as error:
        raise M2IBError(f"{key}={str(file)!r} is not JSON that can be read: {type(error).__name__}") from None


def records(content: Any, name: str, file: Path, layout: str) -> list[dict[str, Any]]:
    """Return a list of objects from a JSON object.

    Args:
        content: content of the file.
        name: name of the list.
        file: path of the file, for the error message.
        layout: name of the layout that is expected, for the error message.

    Raises:
        M2IBError: if there is no list of this name.
    """
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, list):
        has = ", ".join(map(repr, list(content)[:8])) if isinstance(content, dict) else f"a {type(content).__name__}"
        raise M2IBError(f"{str(file)!r} is not {layout}: it needs a list {name!r}, and has {has}")
    for number, record in enumerate(found):
        if not isinstance(record, dict):
            raise M2IBError(f"{str(file)!r}: {name}[{number}] must be an object, got {quoted(record)}")
    return found


def id_of(record: dict[str, Any], name: str = "id") -> Id:
    """Return an id of a record."""
    value = record.get(name)
    return value if isinstance(value, int | str) else None


def by_id(found: list[dict[str, Any]]) -> dict[Id, dict[str, Any]]:
    """Return records by their ids; those without a usable id are left out, so that nothing refers to them."""
    indexed = {id_of(record): record for record in found}
    indexed.pop(None, None)
    return indexed
