"""Images of every kind are read, and broken ones are errors with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from m2ib_lightning.errors import PairError
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import read_image
from tests.folders import open_image, save_photograph


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (20, 40)


def test_paths_bytes_pictures_and_arrays_give_the_same_pixels(tmp_path: Path) -> None:
    path = save_photograph(tmp_path / "a.png", 20, 10)
    expected = np.asarray(Image.open(path))
    for image in (path, str(path), path.read_bytes(), Image.open(path), expected, expected / 255.0):
        np.testing.assert_array_equal(np.asarray(open_image(image)), expected)


def test_grey_and_palette_become_rgb() -> None:
    for mode in ("L", "P", "RGBA", "1", "CMYK"):
        assert open_image(Image.new(mode, (4, 4))).mode == "RGB"
    assert open_image(np.zeros((4, 4), np.uint8)).mode == "RGB"


@pytest.mark.parametrize("top", [4095, 65535])
@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path, top: int, suffix: str) -> None:
    ramp = np.linspace(0, top, 64 * 64).reshape(64, 64).round()
    Image.fromarray(ramp.astype(np.uint16)).save(tmp_path / f"x.{suffix}")
    Image.fromarray((ramp / top).astype(np.float32)).save(tmp_path / "float.tiff")
    for name in (f"x.{suffix}", "float.tiff"):
        opened = np.asarray(open_image(tmp_path / name))
        darkest, brightest = ramp.flat[21], ramp.flat[4074]  # the ranks of the 0.5th and 99.5th percentile, inwards
        shades = ((ramp - darkest) / (brightest - darkest)).clip(0, 1) * 255
        np.testing.assert_allclose(opened[..., 0], shades, atol=0.51)  # rounded to whole levels
        whole = np.asarray(read_image(tmp_path / name, ImageRules(window="full")).picture)
        np.testing.assert_allclose(whole[..., 0], ramp / top * 255, atol=0.6)


def test_transparent_pixels_are_white() -> None:
    picture = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert open_image(picture).getpixel((0, 0)) == (255, 255, 255)
    picture.putpixel((0, 0), (10, 20, 30, 255))
    assert open_image(picture).getpixel((0, 0)) == (10, 20, 30)


def test_a_malformed_exif_block_is_an_error_of_that_image(tmp_path: Path) -> None:
    save_photograph(tmp_path / "a.png", 20, 10)
    Image.open(tmp_path / "a.png").save(tmp_path / "b.png", exif=b"garbage!garbage")
    with pytest.raises(PairError, match="could not be read"):
        open_image(tmp_path / "b.png")


def test_a_url_is_not_downloaded() -> None:
    with pytest.raises(PairError, match="images at URLs are only downloaded with"):
        open_image("https://example.com/x.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "could not be read as an image"),
        (b"hello", "could not be read as an image"),
        ("truncated", "could not be read"),
        ("directory", "is a directory; give the file"),
    ],
)
def test_images_that_cannot_be_read(tmp_path: Path, content: bytes | str | None, message: str) -> None:
    path = tmp_path / "image.png"
    if content == "truncated":
        content = save_photograph(path, 64, 64).read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(PairError, match=message):
        open_image(path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 2, 2), np.uint8), r"got shape \(2, 2, 2\)"),
        (np.full((2, 2), 7.0), r"floats in \[0, 1\]"),
        (np.full((2, 2), np.nan), r"floats in \[0, 1\]"),
        (np.zeros((2, 2), np.int64), "got int64"),
        (np.zeros((0, 5, 3), np.uint8), "could not be read|no pixels"),
        (3, "must be a path, bytes, a PIL image or an array, got int"),
    ],
)
def test_objects_that_are_no_images(image: object, message: str) -> None:
    with pytest.raises(PairError, match=message):
        open_image(image)  # type: ignore[arg-type]
