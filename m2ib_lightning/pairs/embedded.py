"""Pictures inside text: base64, and ``data:`` URIs."""

from __future__ import annotations

import base64
import binascii
import re
from urllib.parse import unquote_to_bytes

from m2ib_lightning.errors import PairError, quoted

_SHORTEST = 40
"""Length of the shortest text that counts as a picture in base64; shorter ones are file names."""

_BASE64 = re.compile(r"[A-Za-z0-9+/\s_-]+={0,2}\s*")

_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\xff\x4f\xff\x51")
_SIGNATURES_AT_4 = (b"ftyp", b"jP  ")
"""First bytes of pictures, and those from the fifth on (AVIF, JPEG 2000)."""


def embedded_picture(text: str) -> bytes | None:
    """Return the bytes of a picture that a text holds; None if the text is a path or a URL.

    >>> embedded_picture("photographs/cat.jpg") is None
    True
    >>> embedded_picture("data:text/plain;base64,aGVsbG8=")
    b'hello'

    Raises:
        PairError: if a ``data:`` URI is broken.
    """
    start = text[: _SHORTEST + 8].lstrip()
    if start[:5].lower() == "data:":
        return _data_uri(text.strip())
    if len(text) < _SHORTEST or not _is_picture(start) or _BASE64.fullmatch(text) is None:
        return None
    try:
        return _decode(text)
    except binascii.Error:  # a file name that looks like base64
        return None


def _is_picture(start: str) -> bool:
    """Whether the first characters are the signature of a picture in base64."""
    try:
        head = _decode(start[:32])
    except (binascii.Error, ValueError):
        return False
    return head.startswith(_SIGNATURES) or head[4:8] in _SIGNATURES_AT_4


def _decode(text: str) -> bytes:
    letters = "".join(text.split()).translate(str.maketrans("-_", "+/"))
    return base64.b64decode(letters.rstrip("=") + "=" * (-len(letters.rstrip("=")) % 4), validate=True)


def _data_uri(text: str) -> bytes:
    head, comma, content = text.partition(",")
    if not comma:
        raise PairError(f"the image is a data: URI without a comma: {quoted(text)}")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(content)
    try:
        return _decode(unquote_to_bytes(content).decode("ascii"))
    except ValueError as error:  # also the errors of base64 and of ASCII
        raise PairError(f"the image is a data: URI whose base64 is broken ({error}): {quoted(text)}") from None
