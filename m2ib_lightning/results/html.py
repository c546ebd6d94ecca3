"""A result as HTML: picture, overlay, and the caption as selectable text. All data is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from m2ib_lightning.results.drawing import facts_of, overlay, word_colour
from m2ib_lightning.results.fragment_size import FULL, FragmentSize
from m2ib_lightning.results.spans import token_spans

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution


_STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #202024; }
img { max-width: 100%; }
table { border-collapse: collapse; } td, th { padding: .1rem .8rem .1rem 0; text-align: left; vertical-align: top; }
.error { color: #a02020; }
"""
# Inline styles also work in a notebook, which shows the fragment without _STYLE. Dark notebooks need the text colour.
_ROW = "display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0"
_IMAGE = "max-width: 45%; height: 18rem; object-fit: contain"
_WORDS = "flex: 1 1 20rem; min-width: 0; line-height: 1.8"
_WORD = "color: #202024; border-radius: 3px; background: rgb({}, {}, {})"


def page(title: str, body: str) -> str:
    """Return a complete HTML page with a title (text) and a body (HTML)."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def coloured_caption(result: Attribution, size: FragmentSize = FULL) -> str:
    """Return the caption as HTML. Each span has its colour as background and its saliency as a tooltip."""
    return size.joined(_coloured_pieces(result))


def _coloured_pieces(result: Attribution) -> Iterator[str]:
    caption, end = result.pair.caption or "", 0
    for span in token_spans(result):
        style = _WORD.format(*word_colour(span.value))
        title = "" if math.isnan(span.nats) else f' title="{f"{span.nats:.4g} {result.unit}".rstrip()}"'
        word = f'<span style="{style}"{title}>{escape(span.text)}</span>'
        yield from (escape(caption[end : span.start]), word)
        end = span.end
    yield escape(caption[end:])


def attribution_fragment(result: Attribution, size: FragmentSize = FULL) -> str:
    """Return the HTML of one result: picture, overlay and coloured caption, or the error of a failed pair."""
    if result.error is not None:
        return f'<p class="error">{escape(result.pair.id)}: {escape(result.error)}</p>'
    picture = None if result.pair.picture is None else size.shown(result.pair.picture)
    shown = [] if picture is None else [("picture", picture), ("overlay", overlay(result, picture))]
    images = "".join(f'<img alt="{name}" style="{_IMAGE}" src="{size.encode(image)}">' for name, image in shown)
    facts = "<br>".join(escape(fact) for fact in facts_of(result))
    words = f'<div style="{_WORDS}">{coloured_caption(result, size)}<br><small>{facts}</small></div>'
    return f'<div class="m2ib" style="{_ROW}">{images}{words}</div>'


def attribution_page(result: Attribution) -> str:
    """Return a complete HTML page of one result."""
    return page(result.pair.caption or result.pair.id, attribution_fragment(result))
