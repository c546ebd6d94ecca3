"""Feeds broken images, DICOM files and tables to the readers; any outcome but a pair or that pair's error is a finding.

Each input is a small valid file with a few changes (flipped, cut, doubled or spliced bytes). A child process does the
work, so that a crash of a decoder is noticed too. The folder of findings keeps the input of each finding.

    python scripts/fuzz_readers.py --seconds 600
"""

from __future__ import annotations

import argparse
import io
import json
import multiprocessing
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from m2ib_lightning.datamodules.captions import CaptionSource, Columns
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import read_image
from m2ib_lightning.pairs.tables.open_table import open_table

FORMATS = (
    "png",
    "jpeg",
    "gif",
    "tiff",
    "webp",
    "bmp",
    "ico",
    "ppm",
    "tga",
    "pcx",
    "jpeg2000",
    "sgi",
    "im",
    "dds",
    "icns",
)
MODES = ("RGB", "L", "P", "RGBA", "1", "CMYK", "I;16", "F", "LA")
DICOM_SHARE = 0.25
"""Share of DICOM among the rounds with pictures."""

PARQUET_SHARE = 0.02
"""Share of Parquet among the rounds with tables: `datasets` is slow to open it."""

SLOW = 20.0
"""Seconds after which a reader that does not return is a finding."""


def image_seeds() -> list[tuple[str, bytes]]:
    """Return small pictures in every format and mode that Pillow writes."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (23, 31, 3), dtype=np.uint8))
    seeds = []
    for kind in FORMATS:
        for mode in MODES:
            for options in ({}, {"save_all": True, "append_images": [colours.rotate(90)]}):
                buffer = io.BytesIO()
                try:
                    picture = colours.convert("L").convert(mode) if mode in ("F", "I;16") else colours.convert(mode)
                    picture.resize((32, 32) if kind == "icns" else picture.size).save(buffer, kind, **options)
                except (OSError, ValueError, KeyError, AttributeError, TypeError):
                    continue
                seeds.append((f"{kind}-{mode}", buffer.getvalue()))
    return seeds


def dicom_seeds() -> list[tuple[str, bytes]]:
    """Return small DICOM files of several transfer syntaxes, bits and colours, with and without a preamble."""
    try:
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless
    except ImportError:
        print("DICOM files are left out: pip install 'm2ib_lightning[medical]'", file=sys.stderr)
        return []
    rng = np.random.default_rng(1)
    seeds = []
    for name, shape, kind, tags in (
        ("grey", (23, 31), np.uint8, {"WindowCenter": 100, "WindowWidth": 90}),
        ("deep", (23, 31), np.uint16, {"BitsStored": 12, "HighBit": 11, "RescaleSlope": 2, "RescaleIntercept": -9}),
        ("frames", (3, 9, 11), np.uint8, {"NumberOfFrames": 3, "PhotometricInterpretation": "MONOCHROME1"}),
        ("colour", (9, 11, 3), np.uint8, {"PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}),
    ):
        for syntax in (ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless):
            pixels = rng.integers(0, 4096 if kind == np.uint16 else 256, shape).astype(kind)
            data, bits = Dataset(), 8 * pixels.dtype.itemsize
            data.SOPClassUID, data.SOPInstanceUID = UID("1.2.840.10008.5.1.4.1.1.7"), UID("1.2.826.0.1.3680043.8.498.7")
            data.Rows, data.Columns = pixels[0].shape[:2] if name == "frames" else pixels.shape[:2]
            data.SamplesPerPixel, data.PixelRepresentation = 3 if name == "colour" else 1, 0
            data.PhotometricInterpretation = "MONOCHROME2"
            data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
            for tag, value in tags.items():
                setattr(data, tag, value)
            data.PixelData = pixels.tobytes()
            data["PixelData"].VR = "OB" if bits == 8 else "OW"
            data.file_meta = FileMetaDataset()
            data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax == RLELossless else syntax
            if syntax == RLELossless:
                data.compress(RLELossless)
            buffer = io.BytesIO()
            data.save_as(buffer, enforce_file_format=True)
            seeds.append((f"dicom-{name}", buffer.getvalue()))
            seeds.append((f"dicom-{name}-bare", buffer.getvalue()[132:]))
    return seeds


def table_seeds(folder: Path) -> list[tuple[str, bytes]]:
    """Return the same rows in every format."""
    import datasets

    datasets.disable_progress_bars()
    captions = ["a red circle", 'a "quoted", word', "Größe\nmore", "", "日本語 😀"]
    rows = [{"image": f"{k}.png", "caption": caption, "uid": f"00{k}"} for k, caption in enumerate(captions)]
    quoted = [",".join('"' + row[name].replace('"', '""') + '"' for name in row) for row in rows]
    lists = [row | {"caption": [row["caption"], "a star"]} for row in rows]
    datasets.Dataset.from_list(rows).to_parquet(str(folder / "seed.parquet"))
    return [
        (".csv", ("image,caption,uid\r\n" + "\r\n".join(quoted) + "\r\n").encode()),
        (".tsv", "\n".join("\t".join(row.values()).replace("\nmore", "") for row in rows).encode()),
        (".tsv", b"a red circle\thttps://example.com/x.jpg\na star\tb.png\n"),
        (".jsonl", "\n".join(json.dumps(row) for row in rows).encode()),
        (".jsonl", "\n".join(json.dumps(row) for row in lists).encode()),
        (".json", json.dumps(rows).encode()),
        (".parquet", (folder / "seed.parquet").read_bytes()),
    ]


def mutated(rng: np.random.Generator, seed: bytes, other: bytes) -> bytes:
    """Return the seed with one to eight changes."""
    data = bytearray(seed)
    for _ in range(rng.integers(1, 9)):
        size = max(1, len(data))
        at = int(rng.integers(size) if rng.random() < 0.6 else rng.integers(min(64, size)))  # headers matter most
        length = int(rng.integers(1, 17))
        match int(rng.integers(7)):
            case 0:
                data[at : at + 1] = bytes([rng.integers(256)])
            case 1:
                data[at : at + length] = rng.bytes(length)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[at : at + 8 * length]
            case 4:
                del data[at if rng.random() < 0.3 else size - length :]
            case 5:
                data[at : at + 4] = rng.choice([b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\1\0\0"])
            case 6:
                start = int(rng.integers(max(1, len(other))))
                data[at : at + length] = other[start : start + 4 * length]
    return bytes(data)


def try_image(data: bytes) -> str:
    """Read an image as a run does; return the outcome."""
    try:
        picture = read_image(data, ImageRules(SLOW, formats=FORMATS)).picture
    except PairError as error:
        if "was still being read" in str(error):
            raise RuntimeError("the decoder hangs") from error
        return "error"
    assert picture.mode == "RGB"
    assert min(picture.size) > 0
    return "read"


def try_table(path: Path) -> str:
    """Open a table and read every row as a run does; return the outcome."""
    try:
        table = open_table(str(path), "train", ("caption", "image"))
        source = CaptionSource(table, Columns(), None)
    except M2IBError:
        return "error"
    pairs = [source[k] for k in range(len(source))]
    assert len({raw.key for raw in pairs}) == len(pairs)
    return "rows with errors" if any(raw.error for raw in pairs) else "read"


def fuzz(seed: int, seconds: float, folder: Path, counts: Counter[str]) -> None:
    """Fuzz for that many seconds, without the set-up; ``folder/input*`` is always the current input."""
    rng = np.random.default_rng(seed)
    pictures, dicom, tables = image_seeds(), dicom_seeds(), table_seeds(folder)
    texts = [item for item in tables if item[0] != ".parquet" and item[0] != ".json"]
    until = time.time() + seconds
    while time.time() < until:
        if rng.random() < 0.6:
            images = dicom if dicom and rng.random() < DICOM_SHARE else pictures
            (name, first), (_, other) = (images[int(rng.integers(len(images)))] for _ in range(2))
            path = folder / "input.bin"
        else:
            pool = tables if rng.random() < PARQUET_SHARE else texts
            (name, first), (_, other) = (pool[int(rng.integers(len(pool)))] for _ in range(2))
            path = folder / f"input{name}"
        data = mutated(rng, first, other)
        for old in folder.glob("input*"):
            old.unlink()
        path.write_bytes(data)
        outcome = try_image(data) if path.suffix == ".bin" else try_table(path)
        counts[f"{name.split('-')[0].strip('.')}: {outcome}"] += 1


def child(seed: int, seconds: float, folder: Path, queue: multiprocessing.Queue[Any]) -> None:
    """Fuzz until the time is over or there is a finding."""
    warnings.simplefilter("ignore")
    counts: Counter[str] = Counter()
    try:
        fuzz(seed, seconds, folder, counts)
        queue.put((counts, None))
    except BaseException:
        queue.put((counts, traceback.format_exc()))


def main() -> int:
    """Run rounds of child processes until the time is over.

    Returns:
        1 if there was a finding, else 0.
    """
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    arguments = parser.parse_args()
    seconds_left, seed, findings = arguments.seconds, arguments.seed, 0
    total: Counter[str] = Counter()
    context = multiprocessing.get_context("spawn")
    while seconds_left > 0:
        with tempfile.TemporaryDirectory() as name:
            queue: multiprocessing.Queue[Any] = context.Queue()
            seconds = min(seconds_left, 60.0)  # rounds are short, because a dying child loses its counts
            seconds_left -= seconds
            process = context.Process(target=child, args=(seed, seconds, Path(name), queue))
            process.start()
            process.join(seconds + 6 * SLOW)
            problem = f"the process died or hung (exit code {process.exitcode})"
            if not queue.empty():
                counts, problem = queue.get()
                total += counts
            if process.is_alive():
                process.kill()
            if problem:
                findings += 1
                arguments.findings.mkdir(exist_ok=True)
                for path in Path(name).glob("input*"):
                    (arguments.findings / f"{seed}-{path.name}").write_bytes(path.read_bytes())
                print(f"finding {findings} (seed {seed}):\n{problem}", file=sys.stderr, flush=True)
        seed += 1
    for name, count in sorted(total.items()):
        print(f"{count:8d}  {name}")
    print(f"{sum(total.values())} inputs in {arguments.seconds:.0f} s, {findings} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
