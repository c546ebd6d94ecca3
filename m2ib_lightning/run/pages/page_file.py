"""An HTML page that holds its own data, style and script, and that may not reach the network."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from html import escape
from typing import Any, BinaryIO

from m2ib_lightning.results.page_assets import script, style


class PageFile:
    """A page, written in pieces: the rows, block by block, and at the end the head that describes them.

    Data stands in blocks of JSON, which the script reads. The policy in the page allows this script and this style
    only, pictures in the page or beside it, and nothing from the network.

    Args:
        file: file to write to.
        title: title of the page.
    """

    def __init__(self, file: BinaryIO, title: str) -> None:
        self.rows = 0
        self._file = file
        self._write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_policy()}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>{style()}</style></head>\n"
            "<body><noscript>This page is drawn by a script, which is not allowed to run here. The table of the run "
            "has the same data.</noscript>\n"
        )

    @property
    def bytes(self) -> int:
        """Number of bytes written so far."""
        return self._file.tell()

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write a block of rows."""
        self.rows += len(records)
        self._write(f'<script type="application/json" class="rows">{json_for_html(records)}</script>\n')

    def end(self, head: Mapping[str, Any]) -> None:
        """Write the head and the script; the page is complete."""
        self._write(f'<script type="application/json" id="head">{json_for_html(head)}</script>\n')
        self._write(f"<script>{script()}</script>\n</body></html>\n")

    def _write(self, text: str) -> None:
        self._file.write(text.encode("utf-8", "replace"))


def json_for_html(value: Any) -> str:
    r"""Return JSON that can't end a script element nor begin a comment: ``<`` is written as its escape.

    >>> print(json_for_html(["</script>"]))
    ["\u003c/script>"]
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


@cache
def _policy() -> str:
    return (
        f"default-src 'none'; script-src {_hash(script())}; style-src {_hash(style())}; "
        "img-src 'self' data: file:; base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
