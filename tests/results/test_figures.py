"""Styles, colour bars, panoramas and files of drawings, and grids of results."""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.units.unit import Unit
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.drawing import draw_attribution, heat_colours, overlay
from m2ib_lightning.results.figures.overlays import STYLES
from m2ib_lightning.results.grid import grid_figure, save_grid
from m2ib_lightning.results.grounding import Grounding
from m2ib_lightning.results.tower_attribution import TowerAttribution
from m2ib_lightning.results.unit_maps import UnitMaps
from tests.results.test_drawing import make_result

SVG = "{http://www.w3.org/2000/svg}"


def texts(result: Attribution | Grounding, **arguments: Any) -> list[str]:
    return [text.text for text in result.figure(**arguments).texts]


def grounded() -> Grounding:
    result = make_result("a red circle")
    maps = np.zeros((2, 4, 4), np.float32)
    maps[0, 1, 2] = 1.0
    pair = replace(result.pair, units=[Unit("red", 2, 5), Unit("circle", 6, 12)])
    return Grounding(replace(result, pair=pair, units=UnitMaps(maps, np.array([0.2, 0.1], np.float32))))


def lightness(colours: np.ndarray) -> np.ndarray:
    """The lightness L* of CIELAB of colours (..., 3) in [0, 255]."""
    linear = np.where(colours <= 10.31475, colours / 3294.6, ((colours / 255 + 0.055) / 1.055) ** 2.4)
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    return np.where(luminance > 0.008856, 116 * np.cbrt(luminance) - 16, 903.3 * luminance)


def test_the_colours_have_equal_steps_of_lightness() -> None:
    steps = np.diff(lightness(heat_colours(np.linspace(0, 1, 33)).astype(np.float64)))
    assert steps.min() > 0
    assert steps.std() / steps.mean() < 0.1


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size", [(64, 64), (120, 80), (400, 50), (5, 300), (2000, 20)])
def test_every_style_draws_every_shape(style: Any, size: tuple[int, int]) -> None:
    result = make_result(size=size)
    pair = replace(result.pair, crop=(0, 0, min(size), min(size)))
    drawn = draw_attribution(replace(result, pair=pair), style)
    assert drawn.width > 360
    assert drawn.width < 1100


def test_alpha_keeps_the_picture_where_the_map_is_low_and_side_shows_the_map_alone() -> None:
    result = make_result(size=(80, 80))
    assert result.pair.picture is not None
    stripes = Image.fromarray(np.tile(np.array([[0], [255]], np.uint8), (40, 80)))
    alpha, side = (np.asarray(overlay(result, stripes, style)) for style in ("alpha", "side"))
    dark_row = np.asarray(alpha.astype(int)[60:, 0].max(-1))
    assert dark_row[1::2].min() - dark_row[0::2].max() > 200  # the stripes, far from the lit patch
    assert (np.abs(np.diff(side[60:, 0].astype(int), axis=0)) < 5).all()


def test_patches_have_one_value_each() -> None:
    result = make_result(size=(80, 80))
    white = Image.new("RGB", (80, 80), "white")
    patches = np.asarray(overlay(result, white, "patches"))
    lit = patches[20:40, 40:60].reshape(-1, 3)
    assert len(np.unique(lit, axis=0)) == 1
    assert len(np.unique(patches.reshape(-1, 3), axis=0)) == 2


def test_contour_changes_the_picture_along_lines_only() -> None:
    result = make_result(size=(80, 80))
    assert result.pair.picture is not None
    drawn = np.asarray(overlay(result, result.pair.picture, "contour"))
    changed = (drawn != np.asarray(result.pair.picture)).any(-1)
    assert 0.01 < changed.mean() < 0.4
    assert not changed[60:].any()


def test_the_bar_has_the_ends_of_the_map_and_their_unit() -> None:
    result = make_result(size=(80, 80))
    assert {"0", "3 nats"} <= set(texts(result, style="patches"))
    path = replace(result, image_unit="log(1 + nats)^4")
    assert "3 log(1 + nats)^4" in texts(path, style="patches")
    constant = replace(result, image=TowerAttribution(np.full((4, 4), 2.0, np.float32)))
    assert "constant at 2 nats" in texts(constant)


def test_size_and_scale() -> None:
    result = make_result()
    usual, large, doubled = result.figure(), result.figure(size=576), result.figure(scale=2)
    assert large.pictures[0].picture.width == 576
    assert large.texts[0].size == usual.texts[0].size
    assert doubled.width == pytest.approx(2 * usual.width, rel=0.05)
    assert doubled.texts[0].size == 2 * usual.texts[0].size
    for arguments in ({"size": 0}, {"scale": 0.0}, {"size": 30_000}, {"scale": 1e9}):
        with pytest.raises(M2IBError, match="size must be at least 1 pixel and scale above 0"):
            result.figure(**arguments)
    with pytest.raises(M2IBError, match="style must be one of alpha, contour, patches, side, got 'veil'"):
        result.figure("veil")  # type: ignore[arg-type]


def test_a_wide_panorama_has_its_parts_below_each_other() -> None:
    first, second = make_result(size=(800, 100)).figure().pictures[:2]
    assert first.left == second.left
    assert second.top >= first.top + first.picture.height
    assert first.picture.width > 900


@pytest.mark.parametrize(("ending", "kind"), [("png", "PNG"), ("webp", "WEBP"), ("jpg", "JPEG"), ("JPEG", "JPEG")])
def test_pixels_are_saved_by_ending(ending: str, kind: str, tmp_path: Path) -> None:
    make_result().save(tmp_path / f"a.{ending}", style="patches", scale=0.5)
    with Image.open(tmp_path / f"a.{ending}") as picture:
        assert picture.format == kind


def test_svg_has_the_caption_as_text_and_loads_nothing(tmp_path: Path) -> None:
    result = make_result()
    result.save(tmp_path / "a.svg")
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert "<b>red</b>" in [text.text for text in root.iter(f"{SVG}text")]
    links = [image.attrib["href"] for image in root.iter(f"{SVG}image")]
    assert len(links) == 3
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert root.attrib["aria-label"] == result.pair.caption


def test_svg_marks_text_from_right_to_left(tmp_path: Path) -> None:
    make_result("חתול שחור a\x00b \ud800").save(tmp_path / "a.svg")
    words = list(ElementTree.parse(tmp_path / "a.svg").getroot().iter(f"{SVG}text"))
    assert [word.attrib.get("direction") for word in words if word.text in ("חתול", "שחור")] == ["rtl", "rtl"]


def test_pdf_has_text_as_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: pip install 'm2ib_lightning[figures]'")
    make_result("a red circle").save(tmp_path / "a.pdf")
    content = (tmp_path / "a.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"DejaVu" in content or b"/FontDescriptor" in content


def test_pdf_without_matplotlib_has_pixels_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_pdf", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.warns(UserWarning, match=r"Matplotlib is not installed .*m2ib_lightning\[figures\]"):
        make_result("a red circle").save(tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("style", STYLES)
def test_a_grounding_is_drawn_in_every_style(style: Any, tmp_path: Path) -> None:
    grounding = grounded()
    figure = grounding.figure(style)
    assert len(figure.pictures) == 3
    assert {"red", "circle", "share +0.200", "0 to 1 nats"} <= {text.text for text in figure.texts}
    grounding.save(tmp_path / "g.svg", style=style)
    assert "</svg>" in (tmp_path / "g.svg").read_text()


def test_a_grid_shows_a_shared_picture_once(tmp_path: Path) -> None:
    first, second = make_result("a red circle"), make_result("a blue star")
    figure = grid_figure([first, second])
    assert len(figure.pictures) == 1 + 2 * 2  # the picture, then each overlay and its bar
    assert {"circle", "star"} <= {text.text for text in figure.texts}
    other = make_result("another picture", size=(90, 90))
    assert len(grid_figure([first, other]).pictures) == 2 * 2
    save_grid({"m2ib": first, "gradcam": grounded()}, tmp_path / "grid.png", columns=1)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.height > picture.width


def test_a_grid_can_have_the_same_colours(tmp_path: Path) -> None:
    first = make_result("a red circle")
    weak = replace(first, image=TowerAttribution((first.image_saliency / 3).astype(np.float32)))
    bars = [text.text for text in grid_figure([first, weak], same_colours=True, style="patches").texts]
    assert bars.count("3 nats") == 2
    with pytest.raises(M2IBError, match=re.escape("same_colours=True needs maps of one unit, got '', 'nats'")):
        grid_figure([first, replace(first, unit="")], same_colours=True)
    with pytest.raises(M2IBError, match="got 0 results"):
        save_grid([], tmp_path / "a.png")
    with pytest.raises(M2IBError, match=r"must end in \.png, .*\.svg or \.pdf, got '\.html'"):
        save_grid([first], tmp_path / "a.html")
