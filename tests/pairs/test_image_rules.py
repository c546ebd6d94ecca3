"""Formats that are read, and the memory that a picture may take."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image, features

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.image_rules import FORMATS, ImageRules
from m2ib_lightning.pairs.images import looks_like_an_image, read_image
from tests.folders import open_image, save_photograph

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 10\n%%EndComments\nshowpage\n%%EOF\n"


def saved(format_: str, size: tuple[int, int] = (20, 10), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 100).save(buffer, format_, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("format_", FORMATS)
def test_the_usual_formats_are_read(format_: str) -> None:
    if format_ == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    assert open_image(saved(format_)).size == (20, 10)


@pytest.mark.parametrize("format_", ["TGA", "ICO", "SGI", "PCX", "DDS", "MSP"])
def test_other_formats_are_read_only_if_they_are_named(format_: str, tmp_path: Path) -> None:
    content = saved(format_, (16, 16), "1" if format_ == "MSP" else "RGB")
    (tmp_path / "picture.png").write_bytes(content)
    for image in (content, tmp_path / "picture.png"):
        with pytest.raises(PairError, match=r"of a known format: JPEG, .* others with data\.image_formats"):
            open_image(image)
        assert read_image(image, ImageRules(formats=[format_.lower()])).picture.size == (16, 16)


@pytest.mark.parametrize("place", ["bytes", "picture.png", "picture.eps", "opened"])
def test_postscript_never_starts_ghostscript(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *given: started.append(given))
    image: Any = EPS
    if place == "opened":
        image = Image.open(io.BytesIO(EPS))
    elif place != "bytes":
        image = tmp_path / place
        image.write_bytes(EPS)
    with pytest.raises(PairError, match=r"of a known format|is EPS, which is never read"):
        open_image(image)
    assert not started


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"formats": ["EPS"]}, "data.image_formats: EPS is never read, because it can start other programs"),
        ({"formats": ["wmf"]}, "WMF is never read"),
        ({"formats": ["IPTC"]}, "IPTC is never read"),
        ({"formats": ["TGB"]}, "Pillow knows no format 'TGB' that can be read here; it knows .* Did you mean 'TGA'"),
        ({"max_bytes": 0}, "data.image_max_bytes must be a number of bytes of at least 1, got 0"),
    ],
)
def test_wrong_rules_are_refused(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        ImageRules(**rules)


def test_only_names_of_permitted_formats_look_like_images() -> None:
    assert all(map(looks_like_an_image, ["a.jpg", "a.JPEG", "a.png", "a.webp", "a.tif", "a.jp2", "a.gif"]))
    assert not any(map(looks_like_an_image, ["a.eps", "a.ps", "a.pdf", "a.wmf", "a.mpg", "a.h5", "a.txt"]))


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def claimed_png(side: int, bits: int = 8) -> bytes:
    """A small PNG that claims to be a large square."""
    header = side.to_bytes(4, "big") * 2 + bytes([bits, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff(side: int, tile: int) -> bytes:
    """A TIFF whose only tile claims a size of its own."""
    tags = {256: side, 257: side, 258: 8, 259: 5, 262: 1, 277: 1, 322: tile, 323: tile, 324: 200, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries).ljust(200, b"\0") + b"\x80" * 8


@pytest.mark.parametrize(
    "image",
    [claimed_png(10_000), claimed_png(10_000, 16), saved("BMP", (8, 8)).replace(b"\x08\0\0\0", b"\x10\x27\0\0", 2)],
    ids=["png", "png-16", "bmp"],
)
def test_claimed_pixels_are_refused_before_they_take_memory(image: bytes) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PairError, match=r"10,000 x 10,000 pixels take 400,000,000 bytes, and the limit is 350,000,000"):
        open_image(image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # KiB


def test_a_claimed_tile_is_refused() -> None:
    with pytest.raises(PairError, match="is too large"):
        open_image(tiff(8, 65_520))


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF", "GIF", "PPM"])
def test_formats_that_cannot_be_reduced_are_refused(format_: str) -> None:
    content = saved(format_, (64, 32))
    assert read_image(content, ImageRules(max_bytes=64 * 32 * 4)).size == (64, 32)
    with pytest.raises(PairError, match=r"64 x 32 pixels take 8,192 bytes, .* Make a smaller copy of it, or raise"):
        read_image(content, ImageRules(max_bytes=64 * 32 * 4 - 1))


@pytest.mark.parametrize("format_", ["jpg", "jp2"])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("odd", [0, 1])
def test_large_pictures_are_loaded_at_a_reduced_size(format_: str, turned: bool, odd: int, tmp_path: Path) -> None:
    width, height = 330 + odd, 210 + odd
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    photograph = Image.open(save_photograph(tmp_path / "whole.png", width, height))
    options: dict[str, Any] = {"exif": exif} if format_ == "jpg" else {}
    photograph.save(tmp_path / f"a.{format_}", **options)
    turned = turned and format_ == "jpg"
    whole = read_image(tmp_path / f"a.{format_}")
    reduced = read_image(
        tmp_path / f"a.{format_}", ImageRules(max_bytes=(width + 1) * (height + 1) * (4 if format_ == "jp2" else 1))
    )
    assert whole.size == whole.picture.size == reduced.size == ((height, width) if turned else (width, height))
    assert reduced.picture.size == ((105 + odd, 165 + odd) if turned else (165 + odd, 105 + odd))
    expected = np.asarray(whole.picture.resize(reduced.picture.size, Image.Resampling.BOX), np.int16)
    assert np.abs(np.asarray(reduced.picture, np.int16) - expected).mean() < 6
    assert whole.box_in_image((1, 2, 3, 4)) == (1, 2, 3, 4)
    assert reduced.box_in_image((0, 0, *reduced.picture.size)) == (0, 0, *reduced.size)
    with pytest.raises(PairError, match="is too large"):
        read_image(tmp_path / f"a.{format_}", ImageRules(max_bytes=100))


def test_a_progressive_jpeg_needs_memory_at_its_full_size() -> None:
    content = saved("JPEG", (64, 64), progressive=True)
    assert read_image(content, ImageRules(max_bytes=64 * 64 * 6)).picture.size == (64, 64)
    with pytest.raises(PairError, match="64 x 64 pixels take 24,576 bytes"):
        read_image(content, ImageRules(max_bytes=64 * 64 * 4))


def test_conversions_in_strips_give_the_same_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        Image.fromarray(rng.integers(0, 256, (33, 17, 4), dtype=np.uint8), "RGBA"),
        Image.fromarray(rng.integers(0, 65_536, (33, 17), dtype=np.uint16)),
        Image.fromarray(rng.normal(size=(33, 17)).astype(np.float32)),
    ]
    whole = [np.asarray(open_image(picture)) for picture in pictures]
    monkeypatch.setattr("m2ib_lightning.pairs.images._STRIP_PIXELS", 70)
    for picture, expected in zip(pictures, whole, strict=True):
        np.testing.assert_array_equal(np.asarray(open_image(picture)), expected)
