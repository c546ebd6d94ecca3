"""Results in a notebook: small, escaped, and shown by themselves; lists of results stay lists."""

from __future__ import annotations

import copy
import pickle
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.units.unit import Unit
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.figures.figure import rasterise
from m2ib_lightning.results.grid import grid_figure
from m2ib_lightning.results.grounding import Grounding
from m2ib_lightning.results.inline_pictures import inline_thumbnail
from m2ib_lightning.results.notebook import MOST
from m2ib_lightning.results.result_list import ResultList
from m2ib_lightning.results.unit_maps import UnitMaps
from tests.results.test_drawing import CAPTION, make_result

ATTACK = "<script>alert(1)</script> \"'><img src=x onerror=alert(2)>"
"""A caption that would do something if it were not escaped."""


def noise(size: tuple[int, int]) -> Image.Image:
    """A picture that hardly compresses."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (size[1], size[0], 3), np.uint8))


def noisy(caption: str = CAPTION, size: tuple[int, int] = (512, 384)) -> Attribution:
    result = make_result(caption, size)
    return replace(result, pair=replace(result.pair, picture=noise(size)))


def grounded(caption: str = CAPTION) -> Grounding:
    """A grounding with a unit for each word."""
    result = noisy(caption)
    units = [
        Unit(word, start, end) for word, (start, end) in zip(caption.split(), result.pair.token_offsets, strict=True)
    ]
    maps = UnitMaps(np.random.default_rng(0).random((len(units), 4, 4), np.float32), np.zeros(len(units), np.float32))
    return Grounding(replace(result, pair=replace(result.pair, units=units), units=maps))


def test_a_result_is_small() -> None:
    for result in (noisy(), grounded(), noisy(" ".join(f"word'{k}&" for k in range(600)))):
        html = result._repr_html_()
        assert 5_000 < len(html) < MOST
        assert "data:image/webp;base64," in html
        assert "image/png" not in html
    assert "…" in html
    assert "…" not in noisy()._repr_html_()


@pytest.mark.slow
def test_words_and_maps_that_do_not_fit_are_left_out() -> None:
    html = grounded(" ".join(f"w{k}" for k in range(600)))._repr_html_()
    assert 40_000 < len(html) < MOST
    assert "…" in html
    assert html.count("<img") == 41
    assert "u39:is(:hover,:focus)" in html
    assert "u40:is(:hover,:focus)" not in html


@pytest.mark.slow
def test_a_small_grounding_shows_every_unit() -> None:
    html = grounded()._repr_html_()
    assert html.count('<img class="map') == len(CAPTION.split())
    assert html.count("opacity: 0") == len(CAPTION.split())  # unseen also where a notebook drops the rules


def test_everything_is_escaped() -> None:
    for result in (noisy(ATTACK), grounded(ATTACK)):
        for html in (result._repr_html_(), ResultList([result])._repr_html_()):
            assert "<script" not in html
            assert "<img src=x" not in html
            assert "&lt;script&gt;" in html
    pair = replace(noisy().pair, id=ATTACK)
    html = ResultList([Attribution(pair, error=ATTACK)])._repr_html_()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 2


def test_a_failed_result_shows_its_error() -> None:
    failed = Attribution(replace(noisy().pair, id="x" * 500), error="the picture is gone" + "!" * 5000)
    assert "the picture is gone" in failed._repr_html_()
    assert len(failed._repr_html_()) < 1000
    assert "the picture is gone" in Grounding(failed)._repr_html_()
    assert "it was not grounded" in Grounding(noisy())._repr_html_()
    assert "the picture is gone" in repr(failed)
    assert len(repr(failed)) < 300


def test_a_list_is_small_and_says_what_follows() -> None:
    results = ResultList([noisy(size=(200, 150))] * 100)
    html = results._repr_html_()
    assert 20_000 < len(html) < MOST
    shown = html.count('alt="overlay"')
    assert 5 <= shown <= 24
    assert f"{shown} of 100 results; the slice [{shown}:{shown + 24}] of the list" in html
    assert "results; the slice" not in results[:3]._repr_html_()
    assert "no results" in ResultList[Attribution]()._repr_html_()
    assert len(ResultList([grounded(" ".join(["word"] * 500))] * 3)._repr_html_()) < MOST


def test_a_list_is_a_list() -> None:
    first, second = make_result("a red circle"), make_result("a blue star")
    results = ResultList([first, second])
    assert isinstance(results, list)
    assert results[0] is first
    assert [*reversed(results)] == [second, first]
    assert type(results[1:]) is ResultList
    assert type(results + results) is list
    assert [result.tokens for result in pickle.loads(pickle.dumps(results))] == [first.tokens, second.tokens]
    assert type(copy.copy(results)) is ResultList
    results.append(first)
    assert len(results) == 3


def test_reprs_are_short() -> None:
    result = make_result("a red circle")
    assert repr(result) == "Attribution('a red circle', similarity 0.500; 4 x 4 patches, 3 tokens)"
    assert repr(result.image) == "TowerAttribution(saliency of (4, 4), 3 steps)"
    assert len(repr(make_result("word " * 2000))) < 200
    grounding = grounded(" ".join(["word"] * 500))
    assert "492 more" in repr(grounding)
    assert len(repr(grounding)) < 400
    assert repr(grounding.whole.units) == "UnitMaps(saliency of (500, 4, 4))"
    results = ResultList([result] * 1000)
    assert repr(results).endswith("995 more]")
    assert len(repr(results).splitlines()) == 6
    assert repr(ResultList[Attribution]()) == "[]"


def test_show_displays_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    interactive, display = ModuleType("IPython"), ModuleType("IPython.display")
    interactive.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    display.display = shown.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", interactive)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    results = ResultList([make_result()])
    for result in (results[0], grounded(), results):
        result.show()
        assert shown[-1] is result


def test_show_opens_a_picture_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[tuple[int, int]] = []
    monkeypatch.setattr(Image.Image, "show", lambda picture: opened.append(picture.size))
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    good, bad = make_result(), Attribution(make_result().pair, error="gone")
    good.show()
    ResultList([good, bad, good]).show()
    assert opened == [rasterise(good.figure()).size, rasterise(grid_figure([good, good])).size]
    with pytest.raises(M2IBError, match="got 0 results"):
        ResultList([bad]).show()
    assert len(opened) == 2


def test_a_thumbnail_fits_or_is_the_smallest() -> None:
    picture = noise((400, 300))
    sizes = [len(inline_thumbnail(picture, most)) for most in (10**6, 20_000, 5_000)]
    assert sizes[0] > 20_000 >= sizes[1] > 5_000 >= sizes[2]
    assert 500 < len(inline_thumbnail(picture, 1)) < 5_000
