"""Text of every script: fonts, widths, lines, and where each span stands."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.results.figures import fonts
from m2ib_lightning.results.figures.fonts import Face, default_face, face_of
from m2ib_lightning.results.figures.shaped_text import (
    HAS_RAQM,
    direction_of,
    draw_text,
    length_before,
    length_of,
    runs_of,
)
from m2ib_lightning.results.figures.text_lines import PlacedText, lay_out_words
from m2ib_lightning.results.spans import TokenSpan

ARABIC = "قطة سوداء تنام هنا"
HEH = "\u0647"
NO_FONT = "\U00012000"  # cuneiform


def lay_out(text: str, width: float = 500, pieces: int = 100) -> PlacedText:
    """Lay out a text whose words have tokens of at most ``pieces`` characters."""
    words = []
    for word in text.split(" "):
        parts = [word[k : k + pieces] for k in range(0, len(word), pieces)]
        words.append([TokenSpan(0, len(part), part, 0.0, 0.0) for part in parts])
    return lay_out_words(words, width, 30, 20)


@pytest.fixture
def without_fontconfig(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fonts as on a machine without fontconfig; what was found before is forgotten."""
    caches = (fonts._installed, fonts.face_of)

    def forget() -> None:
        for cached in caches:
            cached.cache_clear()
        runs_of.cache_clear()
        fonts._warned.clear()

    monkeypatch.setenv("PATH", "")
    forget()
    yield
    forget()


def test_text_from_right_to_left_starts_at_the_right_and_lines_go_down() -> None:
    placed = lay_out(ARABIC, width=120)
    assert [word.direction for word in placed.words] == ["rtl"] * 4
    assert placed.words[0].right == pytest.approx(120)
    assert placed.words[-1].top > 0
    for before, after in pairwise(placed.words):
        assert after.top > before.top or after.right < before.left


def test_words_of_the_other_direction_keep_their_order() -> None:
    first, sofa, bed, last = lay_out("קטן sofa bed ישן").words
    assert last.right < sofa.left < bed.left < first.left  # read from the right, but "sofa bed" from the left
    cat, red, sofa_word, end = lay_out("a أحمر أزرق end").words
    assert cat.left < sofa_word.left < red.left < end.left


def test_words_without_letters_go_with_their_neighbours() -> None:
    one, number, two = lay_out("חתול 25 ישן").words
    assert two.right < number.left < one.left
    assert number.direction == "rtl"
    a, dash, b = lay_out("a - b").words
    assert a.right < dash.left < b.left


def test_tokens_inside_an_arabic_word_divide_it_from_the_right() -> None:
    placed = lay_out("سوداء", pieces=2)
    (word,) = placed.words
    assert word.text == "سوداء"  # drawn at once, so that its letters join
    assert [span.text for span in placed.spans] == ["سو", "دا", "ء"]
    assert placed.spans[0].right == pytest.approx(word.right)
    assert placed.spans[-1].left == pytest.approx(word.left)
    for before, after in pairwise(placed.spans):
        assert after.right == pytest.approx(before.left)


@pytest.mark.skipif(not HAS_RAQM, reason="Pillow has no raqm here: letters do not join")
def test_a_part_of_an_arabic_word_is_as_wide_as_in_the_word() -> None:
    joined, alone = length_before(HEH * 2, 1, 40, "rtl"), length_of(HEH, 40)
    assert joined != alone  # the first of two letters has another form than one alone
    assert 0 < joined < length_of(HEH * 2, 40)


def test_chinese_breaks_between_characters_but_not_before_punctuation() -> None:
    text = "一只黑色的小猫睡在红色的沙发上\uff0c旁边是一扇大窗户。"
    placed = lay_out(text, width=110)
    assert "".join(span.text for span in placed.spans) == text
    assert placed.words[-1].top > 30
    assert all(word.right <= 111 for word in placed.words)
    assert not [word for word in placed.words if word.text[0] in "\uff0c。"]


def test_a_word_longer_than_a_line_breaks_inside() -> None:
    placed = lay_out("x" * 90 + " end", width=200)
    assert "".join(span.text for span in placed.spans) == "x" * 90 + "end"
    assert max(span.right for span in placed.spans) <= 200
    assert placed.words[-1].top >= 120


def test_an_emoji_of_several_characters_is_one_cluster() -> None:
    family = "\U0001f469\U0001f3fd\u200d\U0001f680"
    text = f"a {family} b"
    assert "".join(run.text for run in runs_of(text)) == text
    assert any(family in run.text for run in runs_of(text))


def test_directions() -> None:
    assert direction_of("123 %") is None
    assert direction_of("1 שלום a") == "rtl"


def test_draw_text_draws_where_it_is_told() -> None:
    canvas = Image.new("RGB", (200, 60), "white")
    draw_text(canvas, 20, 40, "word", 20, (0, 0, 0))
    dark = np.argwhere(np.asarray(canvas.convert("L")) < 128)
    (top, left), (bottom, right) = dark.min(0), dark.max(0)
    assert 18 <= left <= 24
    assert right <= 20 + length_of("word", 20) + 2
    assert 20 <= top < bottom <= 41


def test_what_no_font_has_is_said_once_and_drawn_as_a_box(without_fontconfig: None) -> None:
    with pytest.warns(UserWarning, match=r"no installed font has U\+12000 .*fonts-noto-core"):
        first = runs_of(f"a {NO_FONT}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert face_of("\U00012001") is None  # the same script: no second warning
    assert {run.face for run in first} == {default_face()}


def test_fontconfig_gives_a_font_for_what_the_first_lacks() -> None:
    if not fonts._installed():
        pytest.skip("fontconfig is not installed here")
    entries = [entry for entry in fonts._installed() if not entry.face.is_colour]
    ranges = [code for entry in entries for code in entry.first if 0x900 <= code < 0x2000 or code > 0x3000]
    lacking = next((chr(code) for code in ranges if not fonts._draws(default_face(), chr(code))), None)
    if lacking is None:
        pytest.skip("every installed font has only what the first font has")
    face = face_of(lacking)
    assert isinstance(face, Face)
    assert face != default_face()
    assert fonts._draws(face, lacking)


def test_unpaired_surrogates_and_control_characters_are_drawn() -> None:
    assert length_of("a\ud800\x00b\ufffe", 20) > length_of("ab", 20)
