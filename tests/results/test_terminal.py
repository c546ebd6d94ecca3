"""A result in a terminal: colours that say the saliency, shades and numbers without colours, and hostile captions."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import numpy as np
import pytest

from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import heat_colours
from m2ib_lightning.results.terminal import SHADES, Colours, terminal_colours, terminal_lines
from tests.results.test_drawing import make_result

SEQUENCE = re.compile(r"\x1b\[([\d;]*)m")


class Terminal(io.StringIO):
    """An output that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def lines_of(result: Attribution, colours: Colours, width: int = 24) -> list[str]:
    return list(terminal_lines(result, colours, width))


def map_of(lines: list[str]) -> list[str]:
    """The lines of the map: those between the two empty ones."""
    first, last = (number for number, line in enumerate(lines) if not line)
    return lines[first + 1 : last]


@pytest.mark.parametrize(
    ("stream", "environment", "colours"),
    [
        (Terminal(), {"TERM": "xterm-256color", "COLORTERM": "truecolor"}, "24-bit"),
        (Terminal(), {"COLORTERM": "24bit"}, "24-bit"),
        (Terminal(), {"TERM": "xterm-256color"}, "256"),
        (Terminal(), {"COLORTERM": "truecolor", "NO_COLOR": "1"}, "none"),
        (Terminal(), {"COLORTERM": "truecolor", "NO_COLOR": ""}, "24-bit"),  # as no-color.org says
        (Terminal(), {"COLORTERM": "truecolor", "TERM": "dumb"}, "none"),
        (io.StringIO(), {"COLORTERM": "truecolor"}, "none"),
    ],
)
def test_colours_are_for_terminals(stream: io.StringIO, environment: dict[str, str], colours: Colours) -> None:
    assert terminal_colours(stream, environment) == colours


def test_without_colours_there_are_numbers_and_shades() -> None:
    result = make_result("a red circle", size=(80, 80))
    lines = lines_of(result, "none")
    assert lines[:4] == ["a red circle", "         0  a", "         1  red", "         2  circle"]
    shown = map_of(lines)
    assert (len(shown), {len(line) for line in shown}) == (12, {24})
    assert set("".join(shown)) == set(SHADES)
    heatmap = result.heatmap_at(24, 12)
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    assert shown[row][column] == "█"
    assert shown[0][0] == shown[11][0] == " "
    assert lines[lines.index("", 5) + 1].split(" ", 1)[0] == "0"
    assert lines[lines.index("", 5) + 1].endswith("█ 3 nats")
    assert "similarity 0.500" in lines
    assert "\x1b" not in "".join(lines)


def test_24_bit_colours_are_those_of_the_heatmap() -> None:
    result = make_result("a red circle", size=(80, 80))
    lines = lines_of(result, "24-bit")
    pixels = heat_colours(result.heatmap_at(24, 24)).round().astype(int)
    for number, line in enumerate(map_of(lines)):
        assert SEQUENCE.sub("", line) == "▀" * 24
        assert line.endswith("\x1b[0m")
        codes = [[int(part) for part in code.split(";")] for code in SEQUENCE.findall(line)[:-1]]
        assert [code[:2] for code in codes] == [[38, 2], [48, 2]] * 24
        assert [code[2:] for code in codes[0::2]] == pixels[2 * number].tolist()
        assert [code[2:] for code in codes[1::2]] == pixels[2 * number + 1].tolist()


def test_words_have_the_colour_of_their_saliency_and_ink_that_can_be_read() -> None:
    (words, *_) = lines_of(make_result("a red circle", size=(80, 80)), "24-bit")
    assert SEQUENCE.sub("", words) == "a red circle"
    low, high = heat_colours(np.array([0.0, 1.0])).round().astype(int)
    assert words.startswith("\x1b[38;2;255;255;255m\x1b[48;2;{};{};{}ma\x1b[0m ".format(*low))  # white on the dark end
    assert words.endswith("\x1b[38;2;0;0;0m\x1b[48;2;{};{};{}mcircle\x1b[0m".format(*high))


def test_256_colours_are_of_the_cube() -> None:
    lines = lines_of(make_result("a red circle", size=(80, 80)), "256")
    codes = [code.split(";") for line in map_of(lines) for code in SEQUENCE.findall(line) if code != "0"]
    assert {(layer, kind) for layer, kind, _ in codes} == {("38", "5"), ("48", "5")}
    assert all(16 <= int(colour) <= 231 for _, _, colour in codes)
    assert len({colour for _, _, colour in codes}) > 4


def test_what_the_model_did_not_see_is_marked() -> None:
    result = make_result("a red circle", size=(120, 80))  # seen: columns 20 to 100
    shown = map_of(lines_of(result, "none"))
    assert {line[:4] + line[-4:] for line in shown} == {"xxxxxxxx"}
    assert not any("x" in line[4:-4] for line in shown)
    assert "x: not seen by the model" in lines_of(result, "none")
    assert "grey: not seen by the model" in lines_of(result, "24-bit")
    assert "\x1b[38;2;128;128;128m\x1b[48;2;128;128;128m▀" in map_of(lines_of(result, "24-bit"))[0]


@pytest.mark.parametrize("colours", ["none", "256", "24-bit"])
def test_control_characters_of_a_caption_do_not_reach_the_terminal(colours: Colours) -> None:
    lines = lines_of(make_result("a \x1b[2Jred \u202ecircle\x07"), colours)
    plain = SEQUENCE.sub("", "\n".join(lines))
    assert r"\x1b[2Jred" in plain
    assert r"\u202ecircle\x07" in plain
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", plain)


def test_an_ascii_terminal_gets_ascii() -> None:
    lines = list(terminal_lines(make_result("a réd circle"), "none", 24, "ascii"))
    assert "".join(lines).isascii()
    assert lines[0] == r"a r\xe9d circle"
    assert "@" in "".join(map_of(lines))


def test_a_tall_picture_fits_the_screen_and_a_wide_one_its_width() -> None:
    for size, expected in (((100, 1000), (6, 30)), ((1000, 100), (40, 2)), ((80, 80), (40, 20))):
        shown = map_of(lines_of(replace_size(size), "none", 40))
        assert (len(shown[0]), len(shown)) == expected


def replace_size(size: tuple[int, int]) -> Attribution:
    result = make_result("a red circle", size=(80, 80))
    return replace(result, pair=replace(result.pair, image_size=size, crop=(0, 0, *size)))


def test_a_map_in_another_unit_says_so() -> None:
    result = replace(make_result("a red circle"), image_unit="log(1 + nats)^4")
    assert any(line.endswith("█ 3 log(1 + nats)^4") for line in lines_of(result, "none"))
