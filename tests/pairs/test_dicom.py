"""DICOM files give the pictures of their pixels, and nothing of their other tags."""

from __future__ import annotations

import io
import json
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from m2ib_lightning import explain
from m2ib_lightning.cli import main
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs import dicom
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import looks_like_an_image, read_image
from tests.folders import open_image, save_clip_folder, save_photograph

pytest.importorskip("pydicom")

from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

SECRETS = {
    "PatientName": "Quixotine^Zebedee",
    "PatientID": "ZQ-48151623",
    "PatientBirthDate": "19331107",
    "StudyDate": "20190823",
    "InstitutionName": "Saint Wolfhard Infirmary",
    "ReferringPhysicianName": "Ottoline^Krumm",
    "StudyDescription": "thorax of Zebedee",
    "AccessionNumber": "ACC-90125",
}
"""Tags that never leave a file."""


def dataset(pixels: NDArray[Any], **tags: Any) -> Dataset:
    """A picture of grey values (H, W) or colours (H, W, 3), or several of them, as a DICOM data set."""
    bits = tags.pop("bits", 8 * pixels.dtype.itemsize)
    colour = pixels.ndim > 2 and pixels.shape[-1] == 3
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.7"), UID("1.2.826.0.1.3680043.8.498.77")
    data.Rows, data.Columns = pixels.shape[-3:-1] if colour else pixels.shape[-2:]
    data.SamplesPerPixel = 3 if colour else 1
    if colour:
        data.PlanarConfiguration = 0
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = 8 * pixels.dtype.itemsize, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in (SECRETS | tags).items():
        setattr(data, name, value)
    block = data.private_block(0x0011, "Wolfhard private", create=True)
    block.add_new(0x01, "LO", SECRETS["PatientName"])
    return data


def written(data: Dataset, syntax: UID = ExplicitVRLittleEndian) -> bytes:
    """The bytes of a DICOM file."""
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
    buffer = io.BytesIO()
    if syntax == RLELossless:
        data.compress(RLELossless)
    if syntax == ExplicitVRBigEndian and data.BitsAllocated == 16:
        data.PixelData = np.frombuffer(data.PixelData, np.uint16).byteswap().tobytes()
    if syntax.is_encapsulated and syntax != RLELossless:
        data["PixelData"].VR, data["PixelData"].is_undefined_length = "OB", True
    data.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def compressed(pixels: NDArray[Any], syntax: UID, format_: str, **tags: Any) -> bytes:
    """A DICOM file whose frame Pillow compressed."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_, **({"irreversible": False} if format_ == "JPEG2000" else {}))
    frame = buffer.getvalue()
    if format_ == "JPEG2000":  # DICOM holds the codestream without its box
        frame = frame[frame.index(b"\xff\x4f\xff\x51") :]
    data = dataset(pixels, **tags)
    data.PixelData = encapsulate([frame])
    return written(data, syntax)


def grey_of(content: bytes, **rules: Any) -> NDArray[np.uint8]:
    picture = np.asarray(read_image(content, ImageRules(**rules)).picture)
    assert (picture[..., :1] == picture).all()
    return picture[..., 0]


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> NDArray[np.uint8]:
    """A picture of 60 x 40 pixels in 8-bit grey."""
    path = save_photograph(tmp_path_factory.mktemp("photograph") / "grey.png", 60, 40)
    return np.asarray(Image.open(path).convert("L"))


NATIVE = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless]


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.name)
def test_eight_bits_stay_as_they_are_in_every_syntax(syntax: UID, grey: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(grey_of(written(dataset(grey), syntax)), grey)
    signed = (grey.astype(np.int16) - 128).astype(np.int8)
    np.testing.assert_array_equal(grey_of(written(dataset(signed, RescaleSlope=2, RescaleIntercept=-9), syntax)), grey)
    np.testing.assert_array_equal(grey_of(written(dataset(grey, PhotometricInterpretation="MONOCHROME1"))), 255 - grey)
    deep = (grey.astype(np.uint16) << 4) + 3
    limits = {"window": f"{255 * 8 + 3},{255 * 16}"}  # the values of black and white are 3 and 4083
    np.testing.assert_array_equal(grey_of(written(dataset(deep, bits=12), syntax), **limits), grey)


def test_bytes_in_words_and_a_data_set_that_is_implicit_by_mistake(grey: NDArray[np.uint8]) -> None:
    data = dataset(grey)
    data.PixelData = np.frombuffer(grey.tobytes(), np.uint16).byteswap().tobytes()
    data["PixelData"].VR = "OW"
    np.testing.assert_array_equal(grey_of(written(data, ExplicitVRBigEndian)), grey)
    implicit = written(dataset(grey), ImplicitVRLittleEndian)
    stated = b"\x02\0\x10\0UI\x12\x00" + b"1.2.840.10008.1.2\0"
    assert stated in implicit
    mistaken = implicit.replace(stated, b"\x02\0\x10\0UI\x14\x00" + b"1.2.840.10008.1.2.1\0")
    np.testing.assert_array_equal(grey_of(mistaken), grey)


def test_jpeg_2000_and_jpeg_give_the_pixels_of_pillow(grey: NDArray[np.uint8]) -> None:
    np.testing.assert_array_equal(grey_of(compressed(grey, JPEG2000Lossless, "JPEG2000")), grey)
    colour = np.stack([grey, grey[::-1], 255 - grey], axis=-1)
    content = compressed(colour, JPEG2000Lossless, "JPEG2000", PhotometricInterpretation="YBR_RCT")
    np.testing.assert_array_equal(np.asarray(open_image(content)), colour)
    buffer = io.BytesIO()
    Image.fromarray(colour).save(buffer, "JPEG")
    content = compressed(colour, JPEGBaseline8Bit, "JPEG", PhotometricInterpretation="YBR_FULL_422")
    difference = np.asarray(open_image(content), np.int16) - np.asarray(open_image(buffer.getvalue()), np.int16)
    assert np.abs(difference).max() <= 2  # two roundings of YCbCr


def test_colours_and_palettes(grey: NDArray[np.uint8]) -> None:
    colour = np.stack([grey, grey[::-1], 255 - grey], axis=-1)
    for syntax in NATIVE:
        np.testing.assert_array_equal(np.asarray(open_image(written(dataset(colour), syntax))), colour)
    ybr = np.asarray(Image.fromarray(colour).convert("YCbCr"))
    content = written(dataset(ybr, PhotometricInterpretation="YBR_FULL"))
    y, cb, cr = np.moveaxis(ybr.astype(np.float64), -1, 0) - np.array([0, 128, 128])[:, None, None]
    rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], axis=-1)  # C.7.6.3.1.2
    np.testing.assert_allclose(np.asarray(open_image(content)), rgb.clip(0, 255), atol=0.51)  # rounded to whole levels
    deep = (colour.astype(np.uint16) << 8) + colour
    np.testing.assert_array_equal(np.asarray(open_image(written(dataset(deep)))), colour)
    ramp = np.arange(256, dtype=np.uint16) * 257
    tables = {"Red": ramp, "Green": ramp[::-1], "Blue": np.full(256, 257 * 7, np.uint16)}
    tags: dict[str, Any] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, table in tables.items():
        tags[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        tags[f"{name}PaletteColorLookupTableData"] = table.tobytes()
    expected = np.stack([grey, 255 - grey, np.full_like(grey, 7)], axis=-1)
    for syntax in (ImplicitVRLittleEndian, RLELossless):
        np.testing.assert_array_equal(np.asarray(open_image(written(dataset(grey, **tags), syntax))), expected)
    del tags["BluePaletteColorLookupTableData"]
    with pytest.raises(PairError, match="no palette, or a segmented one"):
        open_image(written(dataset(grey, **tags)))


def test_one_hot_pixel_does_not_make_a_picture_black(grey: NDArray[np.uint8], tmp_path: Path) -> None:
    twelve = grey.astype(np.uint16) * 2 + 100
    twelve[5, 5] = 4095
    opened = grey_of(written(dataset(twelve, bits=12)))
    assert opened.std() > 40
    assert opened[5, 5] == 255
    Image.fromarray(twelve).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "deep.png"))[..., 0], opened)
    full = grey_of(written(dataset(twelve, bits=12)), window="full")
    assert full.max() == 255
    assert full.mean() < 30
    flat = np.full((9, 9), 700, np.uint16)
    assert not grey_of(written(dataset(flat))).any()
    flat[4, 4] = 900  # with one value between the percentiles, the darkest and the brightest decide
    assert np.unique(grey_of(written(dataset(flat)))).tolist() == [0, 255]


def test_padding_does_not_count_in_the_window(grey: NDArray[np.uint8]) -> None:
    values = grey.astype(np.int16) * 4
    expected = grey_of(written(dataset(values[:, 20:])))
    values[:, :20] = -2000
    opened = grey_of(written(dataset(values, PixelPaddingValue=-2000)))
    np.testing.assert_array_equal(opened[:, 20:], expected)
    assert not opened[:, :20].any()
    assert grey_of(written(dataset(values)))[:, 20:].min() > 150


def test_the_file_s_first_window_is_used_and_a_key_replaces_it(grey: NDArray[np.uint8]) -> None:
    values = grey.astype(np.int16) * 8 - 1000
    tags = {"RescaleSlope": 2, "RescaleIntercept": 10, "WindowCenter": [40, 999], "WindowWidth": [400, 9]}
    hounsfield = values.astype(np.float64) * 2 + 10
    linear = (((hounsfield - 39.5) / 399 + 0.5).clip(0, 1) * 255).round()  # DICOM part 3, C.11.2.1.2.1
    np.testing.assert_array_equal(grey_of(written(dataset(values, **tags))), linear)
    exact = (((hounsfield - 40) / 400 + 0.5).clip(0, 1) * 255).round()
    np.testing.assert_array_equal(grey_of(written(dataset(values, **tags, VOILUTFunction="LINEAR_EXACT"))), exact)
    sigmoid = (255 / (1 + np.exp(-4 * (hounsfield - 40) / 400))).round()
    np.testing.assert_array_equal(grey_of(written(dataset(values, **tags, VOILUTFunction="SIGMOID"))), sigmoid)
    chosen = (((hounsfield + 600) / 1500 + 0.5).clip(0, 1) * 255).round()
    np.testing.assert_array_equal(grey_of(written(dataset(values, **tags)), window="-600, 1500"), chosen)
    without = {name: tags[name] for name in ("RescaleSlope", "RescaleIntercept")}
    np.testing.assert_array_equal(
        grey_of(written(dataset(values, **tags)), window="auto"), grey_of(written(dataset(values, **without)))
    )


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_lookup_tables_for_modality_and_display(syntax: UID, grey: NDArray[np.uint8]) -> None:
    table = Dataset()
    table.LUTDescriptor = [256, 0, 16]
    table.LUTData = (np.arange(255, -1, -1, dtype=np.uint16) * 16).tobytes()
    values = 4080 - grey.astype(np.float64) * 16
    shown = grey_of(written(dataset(grey, ModalityLUTSequence=[table]), syntax), window="2040,4080")
    np.testing.assert_array_equal(shown, (values / 4080 * 255).round())
    table.LUTDescriptor = [256, 1000, 12]
    raised = grey.astype(np.uint16) + 1000
    shown = grey_of(written(dataset(raised, VOILUTSequence=[table], WindowCenter=1, WindowWidth=2), syntax))
    np.testing.assert_array_equal(shown, (values / 4095 * 255).round())


def test_of_several_frames_the_first_is_read_and_that_is_said(grey: NDArray[np.uint8]) -> None:
    frames = np.stack([grey, 255 - grey, grey])
    for syntax in NATIVE:
        reading = read_image(written(dataset(frames, NumberOfFrames=3), syntax))
        assert reading.animated
        np.testing.assert_array_equal(np.asarray(reading.picture)[..., 0], grey)
    assert not read_image(written(dataset(grey))).animated


def test_data_sets_without_preamble_are_told_by_their_first_element(grey: NDArray[np.uint8], tmp_path: Path) -> None:
    for number, syntax in enumerate((ImplicitVRLittleEndian, ExplicitVRLittleEndian)):
        buffer = io.BytesIO()
        written(data := dataset(grey), syntax)
        data.save_as(buffer, enforce_file_format=False, implicit_vr=syntax.is_implicit_VR, little_endian=True)
        del data.file_meta
        bare = io.BytesIO()
        data.save_as(bare, implicit_vr=syntax.is_implicit_VR, little_endian=True)
        assert bare.getvalue()[128:132] != b"DICM"
        path = tmp_path / f"{number}.DCM"
        path.write_bytes(bare.getvalue())
        np.testing.assert_array_equal(np.asarray(open_image(path))[..., 0], grey)
        np.testing.assert_array_equal(grey_of(bare.getvalue()), grey)  # bytes have no name
        unnamed = path.rename(tmp_path / f"IM{number}")
        np.testing.assert_array_equal(np.asarray(open_image(unnamed))[..., 0], grey)
        group = written(dataset(grey), syntax)[128 + 4 :]  # the file's own group, without what stands before it
        np.testing.assert_array_equal(grey_of(group), grey)
    Image.fromarray(grey).save(tmp_path / "picture.png")
    (tmp_path / "picture.png").rename(tmp_path / "picture.dcm")
    np.testing.assert_array_equal(np.asarray(open_image(tmp_path / "picture.dcm"))[..., 0], grey)
    (tmp_path / "text.dcm").write_text("no picture at all")
    with pytest.raises(PairError, match=r"of a known format: JPEG, .*DICOM"):
        open_image(tmp_path / "text.dcm")
    assert looks_like_an_image("chest.dcm")


def nested(depth: int) -> bytes:
    """A data set of sequences inside sequences, none of which ends."""
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    sequence = b"\x40\x00\x30\xa7SQ\0\0\xff\xff\xff\xff"
    return (sequence + item) * depth


def hostile() -> dict[str, tuple[bytes, str]]:
    """Broken DICOM files, each with a part of its error."""
    pixels = np.zeros((8, 8), np.uint8)
    plain = written(dataset(pixels))
    report = dataset(pixels)
    del report.PixelData
    liar = compressed(pixels, JPEG2000, "JPEG2000", Rows=16)
    postscript = dataset(pixels)
    postscript.PixelData = encapsulate([b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"])
    swelling = dataset(pixels)
    swelling.PixelData = encapsulate([bytes([1, 0, 0, 0, 64]).ljust(64, b"\0") + b"\x81\0" * 100_000])  # 12.8 MB
    header = plain[: plain.index(b"\x08\x00\x16\x00")]
    return {
        "huge": (written(dataset(pixels, Rows=60_000, Columns=60_000)), "too large: its 60,000 x 60,000 pixels take"),
        "many frames": (written(dataset(pixels, NumberOfFrames=2**31 - 1)), "claims .* bytes of pixels and holds 64"),
        "negative frames": (written(dataset(pixels, NumberOfFrames=-5, Rows=9)), "claims 72 bytes"),
        "truncated": (plain[:-20], "claims 64 bytes of pixels and holds 44"),
        "cut in the header": (plain[: len(plain) // 2], "without pixels|could not be read"),
        "only the preamble": (bytes(128) + b"DICM", "without pixels"),
        "nested": (header + nested(3000), "could not be read|without pixels"),
        "report": (written(report), "without pixels .a report"),
        "no rows": (written(dataset(pixels, Rows=0)), "does not state the number of its rows"),
        "32 bits": (written(dataset(np.zeros((8, 8), np.uint32))), "more than 16 bits"),
        "odd colours": (written(dataset(pixels, PhotometricInterpretation="ZEBEDEE")), "MONOCHROME1, .* are read"),
        "no colour": (written(dataset(pixels, PhotometricInterpretation="RGB")), "does not fit its samples"),
        "another size inside": (liar, r"its pixels \(JPEG 2000 Image Compression\) could not be read \(ValueError\)"),
        "swelling": (
            written(swelling, JPEG2000).replace(JPEG2000.encode(), b"1.2.840.10008.1.2.5\0\0\0"),
            "RLE Lossless",
        ),
        "postscript inside": (written(postscript, JPEGBaseline8Bit), "could not be read .UnidentifiedImageError"),
        "endless rescale": (written(dataset(pixels, RescaleSlope="1e308", RescaleIntercept="1e308")), "not finite"),
        "deflated": (written(dataset(pixels), DeflatedExplicitVRLittleEndian), "Deflated Explicit VR .* is not read"),
        "no decoder": (written(postscript, JPEGLSLossless), "JPEG-LS Lossless .* pip install pyjpegls"),
        "12-bit JPEG": (
            compressed(pixels, JPEGExtended12Bit, "JPEG", BitsStored=12, BitsAllocated=16),
            r"could not be read .* pip install pylibjpeg pylibjpeg-libjpeg",
        ),
        "unknown syntax": (plain.replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.99999.1.2.1\0"), "an unknown transfer"),
        "float pixels": (plain.replace(b"\xe0\x7f\x10\0OB", b"\xe0\x7f\x08\0OF"), "pixels as floats"),
    }


NEEDS = {"no decoder": "jpeg_ls", "12-bit JPEG": "libjpeg"}
"""Packages that would read a hostile file."""


@pytest.mark.parametrize("name", sorted(hostile()))
def test_hostile_files_are_errors_that_quote_nothing(name: str) -> None:
    content, message = hostile()[name]
    if (package := NEEDS.get(name)) and find_spec(package):
        pytest.skip(f"{package} is installed")
    with pytest.raises(PairError, match=message) as caught:
        open_image(content)
    assert not [secret for secret in SECRETS.values() if secret in str(caught.value)]
    assert "ZEBEDEE" not in str(caught.value)


def test_pydicom_s_warnings_which_may_quote_are_hidden() -> None:
    content = written(dataset(np.zeros((4, 4), np.uint8))).replace(b"1.2.840.10008.1.2.1\0", b"x.2.840.10008.1.2.1\0")
    dicom._silence_pydicom.cache_clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(PairError, match="an unknown transfer syntax"):
            open_image(content)
    assert not caught
    with pytest.warns(UserWarning, match="Invalid value"):
        dcmread(io.BytesIO(content))  # the same file outside


def test_every_cut_and_every_flipped_byte_is_an_error_or_a_picture() -> None:
    content = written(dataset(np.zeros((4, 4), np.uint8)))
    rng = np.random.default_rng(0)
    for place in rng.integers(132, len(content), 60):
        flipped = bytearray(content)
        flipped[place] ^= int(rng.integers(1, 256))
        for broken in (content[:place], bytes(flipped)):
            try:
                assert read_image(broken).picture.mode == "RGB"
            except PairError as error:
                assert not [secret for secret in SECRETS.values() if secret in str(error)]  # noqa: PT017


def test_without_pydicom_the_error_names_the_command(grey: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    content = written(dataset(grey))
    monkeypatch.setitem(sys.modules, "pydicom.pixels", None)
    with pytest.raises(PairError, match=r"needs pydicom: pip install 'm2ib_lightning\[medical\]'"):
        open_image(content)


@pytest.mark.parametrize("window", ["wide", "40", "40,0", "40,-1", "nan,9", "1,2,3", ""])
def test_wrong_windows_are_refused(window: str) -> None:
    with pytest.raises(M2IBError, match=r"data\.window must be 'center,width' .*, 'auto', 'full' or null, got"):
        ImageRules(window=window)


def test_a_window_holds_for_deep_pictures_and_for_no_others(grey: NDArray[np.uint8], tmp_path: Path) -> None:
    Image.fromarray(grey).save(tmp_path / "shallow.png")
    Image.fromarray(grey.astype(np.uint16) * 100).save(tmp_path / "deep.png")
    rules = ImageRules(window="12750,25500")
    for name in ("shallow.png", "deep.png"):
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name, rules).picture)[..., 0], grey)


def test_a_run_gives_the_maps_of_the_png_and_keeps_every_secret(
    tmp_path: Path, grey: NDArray[np.uint8], capfd: pytest.CaptureFixture[str]
) -> None:
    model = save_clip_folder(tmp_path / "model")
    Image.fromarray(grey).save(tmp_path / "0.png")
    Image.fromarray(grey).save(buffer := io.BytesIO(), "JPEG")
    Image.open(buffer).save(tmp_path / "1.png")
    contents = [written(dataset(grey), syntax) for syntax in (*NATIVE[:2], RLELossless)]
    contents += [compressed(grey, JPEG2000Lossless, "JPEG2000"), compressed(grey, JPEGBaseline8Bit, "JPEG")]
    contents += [written(dataset(np.stack([grey, grey]), NumberOfFrames=2))]
    contents += [content for name, (content, _) in hostile().items() if name not in NEEDS]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    names = ["0.png", "1.png", *(f"{number}.dcm" for number in range(len(contents)))]
    table = tmp_path / "pairs.jsonl"
    table.write_text("".join(json.dumps({"image": name, "caption": "a red circle"}) + "\n" for name in names))
    keys = [f"model.name={model}", f"data.path={table}", "data.num_workers=0", "trainer.precision=64-true"]
    fast = ["bottleneck.steps=2", "bottleneck.noise_samples=2", "output.heatmaps=2", "output.tensorboard_images=1"]
    assert main([*keys, *fast, "trainer.enable_progress_bar=false", f"output_dir={tmp_path / 'run'}"]) == 0
    printed = capfd.readouterr()
    assert "1 image with more than one frame: the first was explained." in printed.out
    (part,) = (tmp_path / "run" / "attributions").iterdir()
    rows = pq.read_table(part).to_pylist()
    assert [row["error"] is None for row in rows] == [number < 8 for number in range(len(names))]
    png, jpeg = rows[0]["image_saliency"], rows[1]["image_saliency"]
    for row, expected in zip(rows[2:8], [png, png, png, png, jpeg, png], strict=True):
        np.testing.assert_allclose(row["image_saliency"], expected, rtol=1e-9)
        assert (row["image_width"], row["image_height"]) == (60, 40)
    assert png != jpeg
    files = [path for path in (tmp_path / "run").glob("**/*") if path.is_file()]
    texts = [printed.out.encode(), printed.err.encode(), *(path.read_bytes() for path in files)]
    texts += [str(row).encode() for row in rows]  # the table's own pages are compressed
    for secret in (word for value in SECRETS.values() for word in (value, *value.split("^"))):
        assert not [text for text in texts if secret.encode() in text], secret


def test_explain_reads_paths_and_bytes(tmp_path: Path, grey: NDArray[np.uint8]) -> None:
    content = written(dataset(grey), ImplicitVRLittleEndian)
    (tmp_path / "chest").write_bytes(content)
    results = explain(
        [tmp_path / "chest", str(tmp_path / "chest"), content, grey],
        "a red circle",
        model=save_clip_folder(tmp_path / "model"),
        bottleneck={"steps": 2, "noise_samples": 2},
    )
    for result in results[:3]:
        assert result.error is None
        np.testing.assert_allclose(result.image.saliency, results[3].image.saliency, rtol=1e-5)  # type: ignore[union-attr]
