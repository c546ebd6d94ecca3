"""Errors that a user can act on, exit statuses, and how a message shows text that is not ours."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

INCOMPLETE = 3
"""Exit status of a run in which pairs are missing because a rank died."""

BROKEN_PIPE = 141
"""Exit status after a broken pipe, when nobody reads the output any more (128 + SIGPIPE)."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells (128 + SIGINT)."""


MAX_QUOTED = 80
"""Largest number of characters that a message quotes of a cell, a name or a URL."""

_MAX_LISTED = 30
"""Largest number of names that a message lists."""

_MAX_COMPARED = 2000
"""Largest number of choices among which ``nearest`` looks; comparing words is slow."""

_JOINERS = "\u200c\u200d"
"""Invisible characters that belong to words and emoji."""


class M2IBError(Exception):
    """An error that the user can fix; the command prints its message without a traceback.

    The message says what was expected, what came, what exists and what to do. Control characters in it are escaped,
    because parts of it may come from data.

    Args:
        message: the message.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(escaped(str(message), keep="\n\t"))


class PairError(M2IBError):
    """An error of a single pair: its row gets the message as ``error``, and the run continues."""


def escaped(text: str, keep: str = "") -> str:
    r"""Return a text in which a terminal or a log finds no control characters.

    Escaped are control characters, line ends, marks that change the direction of text, and half characters, which can't
    be printed. Spaces of all kinds stay. Escaping a text twice changes nothing.

    Args:
        text: text that may come from data: a name, a caption, a server's answer.
        keep: control characters that stay.

    >>> print(escaped("a\x1b[31mred\n"))
    a\x1b[31mred\n
    """
    if text.isprintable():
        return text
    return "".join(char if _is_harmless(char) or char in keep else repr(char)[1:-1] for char in text)


def _is_harmless(char: str) -> bool:
    return char.isprintable() or char in _JOINERS or unicodedata.category(char) == "Zs"


def quoted(value: Any, most: int = MAX_QUOTED) -> str:
    """Return the ``repr`` of a value that may come from data, with at most ``most`` characters of it.

    Of a text, the beginning and the end are shown: a path ends with the name of its file.

    >>> quoted("cat.jpg"), quoted("folder/" * 20 + "cat.jpg", most=14)
    ("'cat.jpg'", "'folder/...cat.jpg' (147 characters)")
    """
    if isinstance(value, str):
        if len(value) <= most:
            return repr(value)
        return f"{value[: most // 2] + '...' + value[-(most - most // 2) :]!r} ({len(value):,} characters)"
    if isinstance(value, bytes):
        return f"{value[:most]!r}... ({len(value):,} bytes)" if len(value) > most else repr(value)
    text = escaped(repr(value))
    return f"{text[:most]}..." if len(text) > most else text


def shortened(text: str) -> str:
    """Return the first ``MAX_QUOTED`` characters of a text that may come from data, escaped but without quotes.

    >>> shortened("a.txt")
    'a.txt'
    """
    return escaped(text if len(text) <= MAX_QUOTED else f"{text[:MAX_QUOTED]}...")


def listed(names: Sequence[str]) -> str:
    """Return names of data as a list for a message: the first ones, each with at most ``MAX_QUOTED`` characters.

    >>> listed(["image", "caption"])
    'image, caption'
    """
    more = f", and {len(names) - _MAX_LISTED:,} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(map(shortened, names[:_MAX_LISTED])) + more


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest choice, or an empty string if none is close.

    >>> nearest("capton", ["caption", "image"])
    " Did you mean 'caption'?"
    """
    short = (choice for choice in choices if len(choice) <= MAX_QUOTED)
    close = difflib.get_close_matches(word[:MAX_QUOTED], islice(short, _MAX_COMPARED), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
