"""A grounding as HTML: the unit under the pointer, or with the focus, shows its map. All data is escaped; no script."""

from __future__ import annotations

import uuid
from html import escape
from typing import TYPE_CHECKING

from PIL import Image

from m2ib_lightning.errors import shortened
from m2ib_lightning.results.drawing import overlay
from m2ib_lightning.results.fragment_size import FULL, FragmentSize
from m2ib_lightning.results.grounding_drawing import unit_overlay
from m2ib_lightning.results.html import page
from m2ib_lightning.results.unit_colours import tint, unit_colour, unit_spans

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

_WORD = "font-weight: normal; color: #202024; border-radius: 3px; padding: 0 2px; background: rgb({}, {}, {})"
_PANEL = 384  # longer side of the picture, in pixels


def grounding_fragment(result: Attribution, size: FragmentSize = FULL) -> str:
    """Return the HTML of one grounding: the caption, the picture, and one map at a time over it.

    The fragment switches the maps by CSS alone, so that it also works in a notebook and in a mail.
    """
    if result.error is not None or result.units is None:
        return f'<p class="error">{escape(result.pair.id)}: {escape(result.error or "it was not grounded")}</p>'
    name = f"m2ib-{uuid.uuid4().hex[:12]}"  # a page may hold several groundings
    picture = result.pair.picture
    words = caption_of_units(result, size)
    layers = "" if picture is None else "".join(_layers(result, picture, size))
    rules = [f"#{name} img{{grid-area:1/1;max-width:100%}} #{name} b{{cursor:pointer}}"]
    for unit in range(len(result.pair.units[: size.maps])):
        rules.append(
            f"#{name}:has(.u{unit}:is(:hover,:focus)) .m{unit}{{opacity:1!important}}"
            f"#{name} .u{unit}:is(:hover,:focus){{outline:2px solid rgb{unit_colour(unit)}}}"
        )
    return (
        f'<div class="m2ib" id="{name}" style="margin: 1rem 0"><style>{"".join(rules)}</style>'
        f'<p style="font-size: 1.2em; line-height: 1.8">{words}</p>'
        f'<div style="display: inline-grid">{layers}</div>'
        f"<br><small>similarity {result.similarity:.3f}; the map is that of the whole caption; point at a "
        "coloured unit, or step to it with the tab key, to see its own</small></div>"
    )


def caption_of_units(result: Attribution, size: FragmentSize = FULL) -> str:
    """Return the caption as HTML; each unit has its colour as background and its share as a tooltip."""
    return size.joined(_word(result, int(span.value), span.text) for span in unit_spans(result.pair))


def grounding_page(result: Attribution) -> str:
    """Return a complete HTML page of one grounding."""
    return page(result.pair.caption or result.pair.id, grounding_fragment(result))


def _word(result: Attribution, unit: int, text: str) -> str:
    if unit < 0 or result.units is None:
        return escape(text)
    unread = unit in result.units.unread
    title = "never read by the model" if unread else f"share {result.units.shares[unit]:+.3f} of the similarity"
    style = _WORD.format(*tint(unit_colour(unit)))
    return f'<b class="u{unit}" tabindex="0" style="{style}" title="{title}">{escape(text)}</b>'


def _layers(result: Attribution, picture: Image.Image, size: FragmentSize) -> list[str]:
    """The picture with the whole caption's map, and the map of each unit above it, unseen at first.

    They are unseen by their own style, because a notebook that does not trust its file drops the rules.
    """
    assert result.units is not None
    shown = size.shown(picture, _PANEL)
    width = f"width: {shown.width}px"
    whole = f'<img alt="the map of the whole caption" style="{width}" src="{size.encode(overlay(result, shown))}">'
    maps = [
        f'<img class="map m{k}" alt="the map of {escape(shortened(unit.text))}" style="{width}; opacity: 0" '
        f'src="{size.encode(unit_overlay(result, k, shown))}">'
        for k, unit in enumerate(result.pair.units[: size.maps])
    ]
    return [whole, *maps]
