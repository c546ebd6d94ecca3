"""A result, or a list of results, in a notebook: HTML that is small enough to stay in the file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

from m2ib_lightning.errors import quoted, shortened
from m2ib_lightning.results.drawing import overlay
from m2ib_lightning.results.fragment_size import FragmentSize
from m2ib_lightning.results.grounding_html import caption_of_units, grounding_fragment
from m2ib_lightning.results.html import attribution_fragment, coloured_caption
from m2ib_lightning.results.inline_pictures import inline_thumbnail

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

MOST = 80_000
"""Largest number of characters of a display."""

_LONGEST = 256  # longer side of a picture, in pixels
_PICTURE = 16_000  # characters of a picture
_PICTURES = 44_000  # characters of all pictures of a grounding
_WORDS = 22_000  # characters of a caption's HTML
_MAPS = 40  # units with a map of their own

_CARDS = 24  # results of a list
_CARD = FragmentSize(partial(inline_thumbnail, most=5_000), longest=160, words=4_000)
_LIST = MOST - 10_000  # a card more does not reach MOST
_CARD_STYLE = "width: 160px; overflow-wrap: anywhere; line-height: 1.5"


def displayed(result: Any) -> bool:
    """Display a result in the notebook that runs this code; return whether there is one."""
    interactive = sys.modules.get("IPython")
    shell = None if interactive is None else interactive.get_ipython()
    if not hasattr(shell, "kernel"):  # a shell in a terminal has none
        return False
    import_module("IPython.display").display(result)
    return True


def attribution_display(result: Attribution) -> str:
    """Return a result as HTML of at most ``MOST`` characters."""
    if result.error is not None:
        return _failure(result)
    return attribution_fragment(result, FragmentSize(partial(inline_thumbnail, most=_PICTURE), _LONGEST, _WORDS))


def grounding_display(result: Attribution) -> str:
    """Return a grounding as HTML of at most ``MOST`` characters; at most 40 units show their maps."""
    if result.error is not None or result.units is None:
        return _failure(result)
    most = min(_PICTURE, _PICTURES // (1 + min(_MAPS, len(result.pair.units))))
    return grounding_fragment(result, FragmentSize(partial(inline_thumbnail, most=most), _LONGEST, _WORDS, _MAPS))


def list_display(results: Sequence[Attribution]) -> str:
    """Return a list of results as HTML of at most ``MOST`` characters: cards of the first ones, and how many follow."""
    cards: list[str] = []
    length = 0
    for result in results[:_CARDS]:
        cards.append(_card(result))
        length += len(cards[-1])
        if length > _LIST:
            break
    shown = len(cards)
    style = "display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; margin: 1rem 0"
    return f'<div class="m2ib" style="{style}">{"".join(cards)}</div>{_what_follows(shown, len(results))}'


def _what_follows(shown: int, count: int) -> str:
    if shown == count:
        return "" if count else "<p>no results</p>"
    following = min(count, shown + _CARDS)
    return f"<p>{shown:,} of {count:,} results; the slice [{shown}:{following}] of the list shows those that follow</p>"


def _card(result: Attribution) -> str:
    if result.error is not None:
        return f'<div style="{_CARD_STYLE}">{_failure(result)}</div>'
    picture = result.pair.picture
    image = ""
    if picture is not None:
        shown = overlay(result, _CARD.shown(picture))
        image = f'<img alt="overlay" style="max-width: 100%" src="{_CARD.encode(shown)}"><br>'
    words = coloured_caption(result, _CARD) if result.units is None else caption_of_units(result, _CARD)
    return f'<div style="{_CARD_STYLE}">{image}{words}<br><small>similarity {result.similarity:.3f}</small></div>'


def _failure(result: Attribution) -> str:
    reason = quoted(result.error, most=400)[1:-1] if result.error is not None else "it was not grounded"
    return f'<p class="error" style="color: #c03030">{escape(shortened(result.pair.id))}: {escape(reason)}</p>'
