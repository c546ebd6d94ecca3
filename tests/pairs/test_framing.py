"""Pictures of any shape fit the model's input, and the box is the part that the input shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import CLIPImageProcessorPil, SiglipImageProcessorPil

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.framing import Box, Framing
from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution, TowerAttribution

SIDE = 32


def clip(size: int = SIDE, crop: int = SIDE) -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(size={"shortest_edge": size}, crop_size={"height": crop, "width": crop})


def siglip() -> SiglipImageProcessorPil:
    return SiglipImageProcessorPil(size={"height": SIDE, "width": SIDE})


def picture(width: int, height: int) -> Image.Image:
    return Image.new("RGB", (width, height), (127, 127, 127))


@pytest.mark.parametrize(
    ("width", "height", "size", "crop", "box"),
    [
        (64, 64, 32, 32, (0, 0, 64, 64)),
        (100, 50, 32, 32, (25, 0, 75, 50)),
        (50, 100, 32, 32, (0, 25, 50, 75)),
        (100, 100, 40, 20, (25, 25, 75, 75)),
        (1, 300, 32, 32, (0, 150, 1, 151)),
        (30000, 1, 32, 32, (15000, 0, 15001, 1)),
        (40, 40, 20, 40, (-20, -20, 60, 60)),  # a crop larger than the resized picture: the processor adds a margin
    ],
)
def test_the_box_that_clip_sees(width: int, height: int, size: int, crop: int, box: Box) -> None:
    pixels, seen = Framing(clip(size, crop))(picture(width, height))
    assert pixels.shape == (3, crop, crop)
    assert np.abs(np.subtract(seen, box)).max() <= 1


@pytest.mark.parametrize("processor", [clip(), siglip()], ids=["clip", "siglip"])
@pytest.mark.parametrize(
    ("fit", "width", "height", "box"),
    [
        ("crop", 100, 50, (25, 0, 75, 50)),
        ("crop", 50, 101, (0, 25, 50, 75)),
        ("crop", 1, 300, (0, 149, 1, 150)),
        ("pad", 100, 50, (0, -25, 100, 75)),
        ("pad", 50, 100, (-25, 0, 75, 100)),
        ("pad", 64, 64, (0, 0, 64, 64)),
        ("pad", 20000, 10, (0, -150, 20000, 170)),  # the picture takes at least one pixel of the input
        ("stretch", 100, 50, (0, 0, 100, 50)),
        ("stretch", 1, 300, (0, 0, 1, 300)),
    ],
)
def test_the_box_of_each_fit(processor: Any, fit: str, width: int, height: int, box: Box) -> None:
    pixels, seen = Framing(processor, fit)(picture(width, height))
    assert pixels.shape == (3, SIDE, SIDE)
    assert np.abs(np.subtract(seen, box)).max() <= max(width, height) / SIDE / 2


@pytest.mark.parametrize("processor", [clip(), clip(40, SIDE), siglip()], ids=["clip", "clip-margin", "siglip"])
@pytest.mark.parametrize("fit", [None, "crop", "pad", "stretch"])
@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (150, 41), (700, 30)])
def test_a_spot_appears_where_the_box_predicts(processor: Any, fit: str | None, width: int, height: int) -> None:
    rng = np.random.default_rng([width, height])
    framing = Framing(processor, fit)
    blank, (left, top, right, bottom) = framing(picture(width, height))
    spots = 0
    while spots < 5:
        x, y = rng.integers(0, width - 4), rng.integers(0, height - 4)
        expected = ((y + 2 - top) / (bottom - top) * SIDE, (x + 2 - left) / (right - left) * SIDE)
        if min(expected) < 2 or max(expected) > SIDE - 2:
            continue
        spotted = picture(width, height)
        spotted.paste((255, 255, 255), (int(x), int(y), int(x) + 4, int(y) + 4))
        change = (framing(spotted)[0] - blank).abs().sum(0).numpy()
        total = change.sum()
        centre = ((np.indices(change.shape) + 0.5) * change).sum((1, 2)) / total
        assert np.abs(centre - expected).max() < 1.1
        spots += 1


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (131, 40)])
@pytest.mark.parametrize("fit", [None, "crop"])
def test_pixels_outside_the_box_do_not_reach_the_model(width: int, height: int, fit: str | None) -> None:
    framing = Framing(clip(), fit)
    original = np.zeros((height, width, 3), np.uint8)
    before, (left, top, right, bottom) = framing(Image.fromarray(original))
    margin = 8  # bicubic resizing reads a few pixels around
    outside = np.ones((height, width), bool)
    outside[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = False
    assert outside.any()
    original[outside] = 255
    np.testing.assert_array_equal(framing(Image.fromarray(original))[0], before)


@pytest.mark.parametrize("processor", [clip(), siglip()], ids=["clip", "siglip"])
def test_the_default_fit_is_the_processor_itself(processor: Any) -> None:
    rng = np.random.default_rng(0)
    for size in ((50, 97), (33, 32), (32, 500)):
        shown = Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        expected = processor(images=[shown], return_tensors="np")["pixel_values"][0]
        default = "crop" if processor.size.shortest_edge else "stretch"
        for fit in (None, default):
            np.testing.assert_array_equal(Framing(processor, fit)(shown)[0], expected)


def test_cutting_a_very_long_picture_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    long = Image.fromarray(rng.integers(0, 256, (10, 400, 3), dtype=np.uint8))
    expected = clip()(images=[long], return_tensors="np")["pixel_values"][0]
    pixels, box = Framing(clip())(long)
    np.testing.assert_allclose(pixels, expected, atol=1e-6)
    assert box == (195, 0, 205, 10)


def test_the_margin_of_pad_is_zero_for_the_model() -> None:
    pixels, _ = Framing(clip(), "pad")(Image.new("RGB", (64, 32), (255, 255, 255)))
    assert pixels[:, :8].abs().max() < 0.02  # half a grey level
    assert pixels[:, 8:24].min() > 1


def test_a_fit_that_does_not_exist() -> None:
    with pytest.raises(M2IBError, match=r"got 'padd'\. Did you mean 'pad'"):
        Framing(clip(), "padd")


@pytest.mark.parametrize(
    ("options", "message"),
    [({"do_resize": False}, "do_resize=False"), ({"size": {"longest_edge": 32}}, "'longest_edge': 32")],
)
def test_a_processor_that_resizes_in_another_way(options: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        Framing(CLIPImageProcessorPil(**options))


def heat(size: tuple[int, int], crop: Box, grid: np.ndarray) -> np.ndarray:
    part = TowerAttribution(grid.astype(np.float32), *[np.zeros(1, np.float32)] * 3)
    return Attribution(Pair("k", "k", "", "", image_size=size, crop=crop), image=part, text=part).image_heatmap


def test_the_heatmap_covers_the_box() -> None:
    grid = np.arange(16.0).reshape(4, 4)
    cropped = heat((100, 50), (25, 0, 75, 50), grid)
    assert cropped.shape == (50, 100)
    assert cropped[:, :25].max() == cropped[:, 75:].max() == 0
    assert cropped[-1, 74] == 1
    padded = heat((100, 50), (0, -25, 100, 75), grid)
    assert padded.shape == (50, 100)
    assert (padded.min(), padded.max()) == (0, 1)
    assert np.all(np.diff(padded[:, 50]) >= 0)
    np.testing.assert_allclose(padded[0, 0], 0)  # between the first two rows of the grid
    stretched = heat((100, 50), (0, 0, 100, 50), grid)
    np.testing.assert_allclose(stretched[13:-13], np.flip(1 - stretched[13:-13]), atol=1e-6)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (1, 1)])
def test_a_picture_one_pixel_wide_has_a_heatmap(size: tuple[int, int]) -> None:
    for fit in (None, "crop", "pad", "stretch"):
        _, crop = Framing(clip(), fit)(picture(*size))
        assert heat(size, crop, np.arange(16.0).reshape(4, 4)).shape == size[::-1]
