"""Errors that a user can act on, and exit statuses."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INCOMPLETE = 3
"""Exit status of a run in which pairs are missing because a rank died."""

BROKEN_PIPE = 141
"""Exit status after a broken pipe, when nobody reads the output any more (128 + SIGPIPE)."""

INTERRUPTED = 130
"""Exit status after Ctrl-C, as in shells (128 + SIGINT)."""


class M2IBError(Exception):
    """An error that the user can fix; the command prints its message without a traceback.

    The message says what was expected, what came, what exists and what to do.
    """


class PairError(M2IBError):
    """An error of a single pair: its row gets the message as ``error``, and the run continues."""


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest choice, or an empty string if none is close.

    >>> nearest("capton", ["caption", "image"])
    " Did you mean 'caption'?"
    """
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
