"""An answer of the page as HTML: maps, words, units, a comparison, and what to download. All text is escaped."""

from __future__ import annotations

import base64
import io
import json
import math
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import numpy as np

from m2ib_lightning.app.question import Question
from m2ib_lightning.errors import shortened
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import facts_of, overlay
from m2ib_lightning.results.fragment_size import FragmentSize
from m2ib_lightning.results.grounding_drawing import draw_result
from m2ib_lightning.results.grounding_html import grounding_fragment
from m2ib_lightning.results.html import coloured_caption
from m2ib_lightning.results.inline_pictures import inline_thumbnail

SIZE = FragmentSize(partial(inline_thumbnail, most=60_000), longest=384, words=200_000, maps=40)
"""Size of the pictures and the words of an answer."""


@dataclass(frozen=True)
class Answer:
    """An answer.

    Attributes:
        results: the result of each caption; those with units hold the units' maps.
        contrast: the result of the first caption against the second, or why there is none; None for one caption.
        question: the question.
    """

    results: list[Attribution]
    contrast: Attribution | str | None
    question: Question


def answer_html(answer: Answer) -> str:
    """Return an answer as HTML."""
    parts = [_comparison(answer.results)] if len(answer.results) > 1 else []
    parts += [
        f'<section aria-label="caption {number}">{_result(result)}{_downloads(result, number)}</section>'
        for number, result in enumerate(answer.results, 1)
    ]
    if answer.contrast is not None:
        parts.append(f'<section aria-label="contrast">{_contrast(answer.contrast, answer.question)}</section>')
    return f'<div class="m2ib-answer">{"".join(parts)}</div>'


def _comparison(results: list[Attribution]) -> str:
    first, second = results
    best = max(results, key=lambda result: result.similarity)
    better = f"<strong>{escape(shortened(best.pair.caption or ''))}</strong> matches the picture better"
    if first.similarity == second.similarity:
        better = "Both captions match the picture equally"
    numbers = f"similarity {first.similarity:.3f} for the first caption, {second.similarity:.3f} for the other"
    return f"<p>{better}: {numbers}.</p>"


def _result(result: Attribution) -> str:
    """The words with their values, the map, and the units if the caption has any."""
    facts = facts_of(result)
    if result.units is not None and result.pair.units:
        shown = grounding_fragment(result, SIZE)  # it names the similarity, which is the first fact
        facts = facts[1:]
    else:
        shown = _map(result)
    words = f'<p class="m2ib-words"><small>Words: </small>{coloured_caption(result, SIZE)}</p>'
    return f"{shown}{words}<p><small>{'<br>'.join(map(escape, facts))}</small></p>"


def _map(result: Attribution) -> str:
    picture = result.pair.picture
    if picture is None:
        return ""
    shown = SIZE.shown(picture)
    return f'<img class="m2ib-map" alt="the map" src="{SIZE.encode(overlay(result, shown))}">'


def _contrast(contrast: Attribution | str, question: Question) -> str:
    if isinstance(contrast, str):
        return f"<p>There is no map of what sets the two captions apart: {escape(contrast)}</p>"
    first, second = (escape(shortened(caption)) for caption in (question.caption, question.other))
    return f"<p>What speaks for <strong>{first}</strong> rather than <strong>{second}</strong>:</p>{_map(contrast)}"


def _downloads(result: Attribution, number: int) -> str:
    """Links that hold the files themselves, so that the server keeps none."""
    buffer = io.BytesIO()
    draw_result(result).save(buffer, "PNG")
    links = [
        _link(f"m2ib-{number}.png", "image/png", buffer.getvalue(), "picture"),
        _link(f"m2ib-{number}.json", "application/json", row_json(result).encode(), "row"),
    ]
    return f'<p class="m2ib-downloads">Download: {" and ".join(links)}</p>'


def _link(name: str, kind: str, content: bytes, text: str) -> str:
    uri = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return f'<a download="{name}" href="{uri}">{text}</a>'


def row_json(result: Attribution) -> str:
    """Return the row of a result as JSON, with null for numbers that are not finite.

    ``Attribution.from_row(json.loads(text))`` restores the result.
    """
    return json.dumps(_plain(result.to_row()), ensure_ascii=False, indent=1)


def _plain(value: Any) -> Any:
    """A value in JSON's types."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
