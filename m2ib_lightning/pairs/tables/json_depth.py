"""The depth of a JSON file, which is checked before a parser whose recursion has no limit reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from m2ib_lightning.errors import M2IBError

MAX_DEPTH = 500
"""Largest number of lists and objects inside each other."""

_CHUNK_BYTES = 2**22


def check_json_depth(file: Path) -> None:
    """Check that lists and objects in a JSON file are not nested too deeply; Arrow's parser would end the process.

    Args:
        file: path of the file, which is read once.

    Raises:
        M2IBError: if they are.
    """
    depth = quotes = 0
    rest = b""
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK_BYTES):
            content = rest + chunk
            rest = b"\\" if (len(content) - len(content.rstrip(b"\\"))) % 2 else b""  # half of an escape
            content = content[: len(content) - len(rest)].replace(b"\\\\", b"").replace(b'\\"', b"")
            letters = np.frombuffer(content, np.uint8)
            in_string = (np.cumsum(letters == ord('"')) + quotes) % 2 == 1
            steps = np.isin(letters, (ord("["), ord("{"))).astype(np.int8) - np.isin(letters, (ord("]"), ord("}")))
            depths = np.cumsum(np.where(in_string, 0, steps)) + depth
            if not len(depths):
                continue
            if depths.max() > MAX_DEPTH:
                raise M2IBError(
                    f"data.path={str(file)!r} could not be read: it has more than {MAX_DEPTH} lists and objects inside "
                    "each other"
                )
            depth, quotes = int(depths[-1]), int(in_string[-1])
