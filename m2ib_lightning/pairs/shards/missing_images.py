"""Shards without images: one message that names the cause, in place of a thousand rows that say the same."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from m2ib_lightning.errors import M2IBError, PairError, listed, quoted
from m2ib_lightning.pairs.images import looks_like_an_image

_MAX_HELD_ROWS = 20_000
"""Largest number of first rows without an image that are held back."""

_MAX_HELD_CHARACTERS = 64 * 2**20
"""Largest length of these rows as text."""

_NAMES_SHOWN = 5


def check_image_column(path: str, samples: Sequence[dict[str, Any]], columns: Collection[str], image: str) -> None:
    """Check that the first samples of a tar have images, if the names of members with two endings could be the reason.

    Args:
        path: the source, for the error message.
        samples: cells of the first samples.
        columns: names of all columns.
        image: name of the image column.

    Raises:
        M2IBError: if there is no image column, but there are images whose ending holds a dot.
    """
    hint = next(filter(None, map(_dotted_names, samples)), None)
    if image not in columns and hint is not None:
        raise M2IBError(f"data.path={path!r} has no member for data.image_column={quoted(image)}: {hint}")


def name_missing_images(rows: Iterator[Any], shard: str, image: str) -> Iterator[Any]:
    """Yield the rows of a shard; if none of them has an image, yield a single ``PairError`` that names the cause.

    Args:
        rows: the cells of each row, or a ``PairError``.
        shard: name of the shard, for the message.
        image: name of the image column.

    Raises:
        Exception: what ``rows`` raises, after the rows before it.
    """
    held: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    length = 0
    try:
        for row in rows:
            if not isinstance(row, dict) or not _is_missing(row.get(image)):
                yield from held
                held = []
                yield row
                break
            first = first or row
            held.append({name: cell for name, cell in row.items() if not isinstance(cell, bytes)})
            length += len(str(held[-1]))
            if len(held) > _MAX_HELD_ROWS or length > _MAX_HELD_CHARACTERS:
                yield from held
                held = []
                break
    except Exception:
        yield from held
        raise
    if held:
        yield PairError(f"shard {shard} has no images: {_reason(first, len(held), image)}")
    yield from rows


def _is_missing(cell: Any) -> bool:
    if isinstance(cell, dict):  # an undecoded image of `datasets`
        return cell.get("bytes") is None and not cell.get("path")
    return cell is None or (isinstance(cell, str) and not cell)


def _reason(row: dict[str, Any], count: int, image: str) -> str:
    rows = f"{count:,} rows" if count > 1 else "its only row"
    if "__key__" not in row:  # no tar
        if image in row:
            return f"the column {quoted(image)} (data.image_column) is empty in {rows}"
        return f"it has no column {quoted(image)} (data.image_column); it has {listed(list(row))}"
    members = [name for name, cell in row.items() if isinstance(cell, bytes)]
    content = f"the first, {quoted(row['__key__'])}, holds {listed(members[:_NAMES_SHOWN]) or 'no picture'}"
    hint = _dotted_names(row)
    return f"none of {rows} has a member for data.image_column={quoted(image)}; {content}{': ' if hint else ''}{hint}"


def _dotted_names(cells: dict[str, Any]) -> str:
    """The part of the message about members like ``img.0001.jpg``; empty if the sample has none."""
    key = cells.get("__key__")
    dotted = [name for name, cell in cells.items() if isinstance(cell, bytes) and _is_dotted_image(name)]
    if key is None or not dotted:
        return ""
    name = dotted[0]
    return (
        "a sample's key ends at the first dot of the file's name (the rule of WebDataset), so "
        f"{quoted(f'{key}.{name}')} is the member {quoted(name)} of sample {quoted(key)}. Give the pictures names "
        f"with a single dot, or data.image_column={quoted(name)} if every sample has that member"
    )


def _is_dotted_image(name: str) -> bool:
    return "." in name and looks_like_an_image(PurePosixPath(name).name)
