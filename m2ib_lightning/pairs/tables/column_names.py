"""Find a column by its name, whatever spaces and capitals the header of a table has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from m2ib_lightning.errors import M2IBError, listed


def find_column(name: str, available: Sequence[str]) -> str | None:
    """Return the column with a name: exactly that, or else the only one that differs in spaces around it and capitals.

    >>> find_column("image path", ["Image Path", " Caption "])
    'Image Path'

    Returns:
        The column's name in the table, or None if there is no such column, or more than one.
    """
    if name in available:
        return name
    alike = alike_columns(name, available)
    return alike[0] if len(alike) == 1 else None


def alike_columns(name: str, available: Iterable[str]) -> list[str]:
    """Return the columns whose names differ at most in the spaces around them and in capitals."""
    folded = _folded(name)
    return [column for column in available if isinstance(column, str) and _folded(column) == folded]


def check_unique(what: str, names: Sequence[str], header: Sequence[str]) -> None:
    """Check that no wanted column can be two columns of a header.

    Raises:
        M2IBError: if one can; the message lists them.
    """
    for name in names:
        alike = alike_columns(name, header)
        exact = [column for column in alike if column == name]
        if len(exact) > 1 or (not exact and len(alike) > 1):
            raise M2IBError(f"{what} has more than one column named {listed(list(dict.fromkeys(exact or alike)))}")


def _folded(name: str) -> str:
    return name.strip().casefold()
