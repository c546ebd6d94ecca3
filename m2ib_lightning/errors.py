"""Errors that a user can act on: the command prints them without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INCOMPLETE = 3
"""The exit status when pairs are missing because a rank died."""

BROKEN_PIPE = 141
"""The exit status when nobody reads what is printed any more (128 + SIGPIPE)."""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it (128 + SIGINT)."""


class M2IBError(Exception):
    """Something the user can mend: the message says what was expected, what came, what exists and what to do."""


class PairError(M2IBError):
    """One pair could not be explained: it becomes a row with ``error``, and the run goes on."""


def nearest(word: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"``, or nothing when no known word is close.

    >>> nearest("capton", ["caption", "image"])
    " Did you mean 'caption'?"
    """
    close = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
