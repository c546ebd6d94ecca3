"""A result as HTML: the overlay, and the caption as selectable text. Everything from the data is escaped."""

from __future__ import annotations

import base64
import io
from html import escape

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.drawing import overlay, word_colour

_STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; color: #202024; }
.m2ib { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0; }
.m2ib img { max-width: 100%; }
.m2ib-words span { border-radius: 3px; }
table { border-collapse: collapse; } td, th { padding: .1rem .8rem .1rem 0; text-align: left; vertical-align: top; }
.error { color: #a02020; }
"""


def page(title: str, body: str) -> str:
    """A complete page around a body that is HTML already."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def coloured_caption(result: Attribution) -> str:
    """The caption, each token on its colour, with its nats as a tooltip."""
    caption, end, parts = result.pair.caption or "", 0, []
    for (start, stop), nats, value in zip(
        result.pair.token_offsets, result.text_saliency, result.text_heatmap, strict=True
    ):
        colour = "rgb({}, {}, {})".format(*word_colour(float(value)))
        word = f'<span style="background: {colour}" title="{nats:.4g} nats">{escape(caption[start:stop])}</span>'
        parts += [escape(caption[end:start]), word]
        end = stop
    return f'<span class="m2ib-words">{"".join(parts)}{escape(caption[end:])}</span>'


def attribution_fragment(result: Attribution) -> str:
    """The overlay (inline) and the coloured caption; the error where the pair failed."""
    if result.error is not None:
        return f'<p class="error">{escape(result.pair.id)}: {escape(result.error)}</p>'
    picture = ""
    if result.pair.picture is not None:
        buffer = io.BytesIO()
        overlay(result, result.pair.picture).save(buffer, "PNG")
        data = base64.b64encode(buffer.getvalue()).decode()
        picture = f'<img alt="overlay" style="min-width: 12rem" src="data:image/png;base64,{data}">'
    return (
        f'<div class="m2ib">{picture}<div>{coloured_caption(result)}'
        f"<br><small>similarity {result.similarity:.3f}</small></div></div>"
    )


def attribution_page(result: Attribution) -> str:
    """One result as a page of its own."""
    return page(result.pair.caption or result.pair.id, attribution_fragment(result))
