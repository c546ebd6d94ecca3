"""Pictures and pages of a result."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution, TowerAttribution, min_max
from m2ib_lightning.results.drawing import draw_attribution, heat_colours, lay_out_caption, overlay, word_colour
from m2ib_lightning.results.html import attribution_fragment, attribution_page, coloured_caption
from m2ib_lightning.results.spans import token_spans

CAPTION = "a <b>red</b> circle,  and another word & more to come after the line is full"


def make_result(caption: str = CAPTION, size: tuple[int, int] = (120, 80)) -> Attribution:
    offsets, position = [], 0
    for word in caption.split():
        start = caption.index(word, position)
        offsets.append((start, start + len(word)))
        position = start + len(word)
    saliency = np.zeros((4, 4), np.float32)
    saliency[1, 2] = 3.0
    words = np.arange(len(offsets), dtype=np.float32)
    curve = np.zeros(3, np.float32)
    margin = (size[0] - size[1]) // 2
    pair = Pair(
        key="t:0",
        id="<i>",
        image="",
        caption=caption,
        tokens=caption.split(),
        token_offsets=offsets,
        token_positions=list(range(1, len(offsets) + 1)),
        image_size=size,
        crop=(margin, 0, size[0] - margin, size[1]),
        picture=Image.new("RGB", size, (200, 100, 50)),
    )
    return Attribution(
        pair, 0.5, TowerAttribution(saliency, curve, curve, curve), TowerAttribution(words, curve, curve, curve)
    )


def test_the_heatmap_lies_on_the_crop_at_the_images_size() -> None:
    heatmap = make_result().image_heatmap
    assert heatmap.shape == (80, 120)
    assert heatmap.dtype == np.float32
    assert heatmap.min() == 0
    assert heatmap.max() == 1
    assert heatmap[:, :20].max() == heatmap[:, 100:].max() == 0
    y, x = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert (20 <= y < 40, 20 + 40 <= x < 20 + 60) == (True, True)  # row 1, column 2 of the grid of 20 px patches


def test_the_heatmap_is_the_saliency_interpolated_between_patch_centres() -> None:
    result = make_result(size=(80, 80))
    heatmap = result.image_heatmap
    assert heatmap[29, 49] == pytest.approx(heatmap.max(), rel=0.1)  # the centre of the lit patch
    assert heatmap[29, 30] == pytest.approx(heatmap[29, 29 + 40], rel=1e-5)  # symmetric


def test_a_constant_map_draws_as_zeros() -> None:
    assert min_max(np.full((2, 2), 3.0)).tolist() == [[0, 0], [0, 0]]


def test_unseen_parts_are_grey_and_the_lit_patch_is_the_brightest() -> None:
    result = make_result()
    assert result.pair.picture is not None
    picture = np.asarray(overlay(result, result.pair.picture))
    assert (picture[:, :20] == 128).all()
    assert (picture[:, 100:] == 128).all()
    lightness = picture[:, 20:100].mean(-1)
    y, x = np.unravel_index(lightness.argmax(), lightness.shape)
    assert (20 <= y < 40, 40 <= x < 60) == (True, True)


def test_colours_grow_lighter_with_the_value() -> None:
    lightness = heat_colours(np.linspace(0, 1, 50)) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(lightness) > 0).all()
    assert word_colour(0) == (255, 255, 255)
    assert word_colour(1) != word_colour(0.5)


def test_words_keep_their_order_stay_inside_the_column_and_do_not_overlap() -> None:
    width, line = 200, 30
    words = lay_out_caption(make_result(), width, line).spans
    assert [word.text for word in words] == CAPTION.split()
    assert max(word.top for word in words) > 0  # the caption wraps
    for before, after in pairwise(words):
        assert after.top > before.top or after.left > before.right
        assert after.right <= width


def test_tokens_of_a_word_stand_together() -> None:
    result = make_result("ab cd")
    pair = Pair(**{**result.pair.__dict__, "tokens": ["a", "b", "cd"], "token_offsets": [(0, 1), (1, 2), (3, 5)]})
    spans = lay_out_caption(
        Attribution(pair, 0.0, result.image, TowerAttribution(*[np.arange(3, dtype=np.float32)] * 4)), 500, 30
    ).spans
    assert spans[1].left == spans[0].right
    assert spans[2].left > spans[1].right


def test_tokens_that_share_a_character_are_drawn_once() -> None:
    result = make_result("ab cd")
    pair = Pair(
        **{
            **result.pair.__dict__,
            "caption": "a ßé!",
            "tokens": ["a", "?", "?", "?", "?", "!"],
            "token_offsets": [(0, 1), (2, 3), (2, 3), (3, 4), (3, 4), (4, 5)],
        }
    )
    curve = np.arange(6, dtype=np.float32)
    shared = Attribution(pair, 0.0, result.image, TowerAttribution(curve, curve, curve, curve))
    assert [(span.text, span.nats) for span in token_spans(shared)] == [("a", 0), ("ß", 3), ("é", 7), ("!", 5)]
    assert [word.text for word in lay_out_caption(shared, 500, 30).spans] == ["a", "ß", "é", "!"]
    assert re.sub(r"<[^>]*>", "", coloured_caption(shared)) == "a ßé!"


def test_lines_break_only_between_words() -> None:
    result = make_result("ab cd ef gh ij kl mn op")
    offsets = [(k, k + 1) for k, letter in enumerate(result.pair.caption or "") if letter != " "]
    pair = Pair(**{**result.pair.__dict__, "tokens": ["x"] * len(offsets), "token_offsets": offsets})
    values = np.zeros(len(offsets), np.float32)
    spans = lay_out_caption(Attribution(pair, 0.0, result.image, TowerAttribution(*[values] * 4)), 100, 30).spans
    for first, second in zip(spans[::2], spans[1::2], strict=True):
        assert first.top == second.top
    assert spans[-1].top > 0


@pytest.mark.parametrize("size", [(120, 80), (80, 120), (1, 300), (2000, 20)])
def test_any_shape_can_be_drawn(size: tuple[int, int]) -> None:
    result = make_result(size=size)
    crop = (0, 0, min(size), min(size))
    drawn = draw_attribution(
        Attribution(Pair(**{**result.pair.__dict__, "crop": crop}), 0.1, result.image, result.text)
    )
    assert drawn.width > 360


def test_html_escapes_the_data() -> None:
    page = attribution_page(make_result())
    assert "<b>" not in page
    assert "&lt;b&gt;red&lt;/b&gt;" in page
    assert page.count("<span style") == len(CAPTION.split())
    assert "data:image/png;base64," in page
    failed = Attribution(make_result().pair, error="<script>")
    assert "<script>" not in attribution_fragment(failed)


def test_save_writes_the_format_of_the_ending(tmp_path: Path) -> None:
    result = make_result()
    result.save(tmp_path / "a.png")
    result.save(str(tmp_path / "a.html"))
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
    assert "<!doctype html>" in (tmp_path / "a.html").read_text()
    assert result._repr_html_().startswith('<div class="m2ib"')
    with pytest.raises(M2IBError, match=r"must end in \.png, .*\.pdf or \.html, got '\.gif'"):
        result.save(tmp_path / "a.gif")


def test_a_failed_pair_says_why() -> None:
    failed = Attribution(make_result().pair, error="no such file")
    with pytest.raises(M2IBError, match="no such file"):
        _ = failed.image_saliency
    with pytest.raises(M2IBError, match="no such file"):
        draw_attribution(failed)
