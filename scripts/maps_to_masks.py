"""From the heatmaps of a run to masks and boxes: a PNG for each explained pair, and one file in COCO's form.

    python scripts/maps_to_masks.py RUN --threshold otsu --keep largest
    python scripts/maps_to_masks.py RUN --threshold fixed --value 0.4 --truth masks/

The map that is cut is the raw one, at the picture's own size; what the model did not see is outside. Masks have 255
inside and 0 outside. ``masks.coco.json`` has an image for each pair (a picture with two captions is there twice) and an
annotation for each part, whose score is the mean of the heatmap in it. With ``--truth``, the mask of a pair in that
folder has the name of the written one, or is ``<id>.png``; its light half (grey from 128) is inside.

Rows are taken one at a time, with the columns of the map alone; what has been found goes to the disk at once.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, get_args

import numpy as np
from PIL import Image

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.files import atomic_write
from m2ib_lightning.pairs.images import TIMEOUT
from m2ib_lightning.pairs.truth import RawTruth, read_truth
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.run_lengths import dice, iou, to_rle
from m2ib_lightning.results.segmentation import Keep, RegionOptions, Regions, segment
from m2ib_lightning.results.thresholds import TAKES_A_VALUE, THRESHOLDS, Mask
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.table import load_attributions

COLUMNS = (
    *("key", "id", "image", "caption", "error"),
    *("image_saliency", "grid_height", "grid_width", "image_width", "image_height", "crop"),
)
"""All that a map is laid back from."""


class CocoFile:
    """``masks.coco.json``, written pair by pair: annotations wait in a file of their own until the images are there.

    Args:
        file: where the result goes.
        waiting: an empty file for the annotations.
        options: how maps are cut.
    """

    def __init__(self, file: BinaryIO, waiting: BinaryIO, options: RegionOptions) -> None:
        self.file = file
        self.waiting = waiting
        self.images = 0
        self.annotations = 0
        info = {"description": "regions of the heatmaps of a run of m2ib_lightning", "options": asdict(options)}
        categories = [{"id": 1, "name": "explained"}]
        file.write(b'{"info": %b,\n"categories": %b,\n"images": [' % (_json(info), _json(categories)))

    def add(self, result: Attribution, name: str, regions: Regions) -> None:
        """One pair: an image, and an annotation for each of its parts."""
        pair, heatmap = result.pair, result.image_heatmap
        self.images += 1
        image = {"id": self.images, "file_name": pair.image, "mask_name": name, "pair_id": pair.id, "key": pair.key}
        width, height = pair.image_size
        _append(self.file, image | {"width": width, "height": height}, self.images == 1)
        for mask, box, area in zip(regions.components, regions.boxes, regions.areas, strict=True):
            self.annotations += 1
            annotation = {"id": self.annotations, "image_id": self.images, "category_id": 1, "iscrowd": 0}
            found = {"segmentation": to_rle(mask), "bbox": box, "area": area, "score": float(heatmap[mask].mean())}
            _append(self.waiting, annotation | found | {"caption": pair.caption}, self.annotations == 1)

    def close(self) -> None:
        """Write what has waited."""
        self.file.write(b'\n],\n"annotations": [')
        self.waiting.seek(0)
        while piece := self.waiting.read(1 << 20):
            self.file.write(piece)
        self.file.write(b"\n]}\n")


def _append(file: BinaryIO, entry: dict[str, Any], first: bool) -> None:
    file.write((b"\n" if first else b",\n") + _json(entry))


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


@contextmanager
def coco_file(path: Path, options: RegionOptions) -> Iterator[CocoFile]:
    """The file, there whole at the end or not at all."""
    with atomic_write(path) as file, tempfile.TemporaryFile(dir=path.parent) as waiting:
        coco = CocoFile(file, waiting, options)
        yield coco
        coco.close()


class Judge:
    """Compares masks with the truth, pair by pair.

    Args:
        folder: of the true masks.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise M2IBError(f"--truth must be a folder of PNG masks, got {str(folder)!r}, which is none")
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.sums = np.zeros(2)

    def compare(self, result: Attribution, name: str, mask: Mask) -> None:
        """Print Dice and IoU of a pair, if it has a truth."""
        file = self._file(result.pair.id, name)
        if file is None:
            self.counts["without a truth"] += 1
            return
        try:
            truth = read_truth(RawTruth(file), result.pair.image_size, TIMEOUT)
        except PairError as error:
            _say(f"warning: left out: {error}")
            self.counts["with a truth that can't be read"] += 1
            return
        if truth.resized:
            _say(f"warning: {file.name} has another size than its picture: resized")
        if truth.mask is None or not truth.mask.any():
            self.counts["with an empty truth (nothing in it is 128 or lighter)"] += 1
            return
        scores = dice(mask, truth.mask), iou(mask, truth.mask)
        self.sums += scores
        self.counts["compared"] += 1
        _print_scores(scores, name)

    def end(self) -> None:
        """Print the means, and how many pairs are not in them."""
        compared = self.counts.pop("compared", 0)
        _print_scores(self.sums / compared if compared else (math.nan, math.nan), f"mean of {compared} pairs")
        for what, count in self.counts.items():
            print(f"{count} {what}")

    def _file(self, identity: str, name: str) -> Path | None:
        """The truth of a pair; an id that is more than a file name names none."""
        plain = identity not in ("", ".", "..") and not set("/\\\0") & set(identity)
        names = [name, f"{identity}.png"] if plain else [name]
        return next((self.folder / n for n in names if os.path.isfile(self.folder / n)), None)


def _print_scores(scores: Sequence[float], name: str) -> None:
    print(f"dice {scores[0]:.4f}  iou {scores[1]:.4f}  {name}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def convert(run: Path, out: Path, options: RegionOptions, judge: Judge | None) -> Counter[str]:
    """Write the masks of a run and their file; how many pairs there were of each kind."""
    counts: Counter[str] = Counter()
    rows = load_attributions(run, COLUMNS)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise M2IBError(f"could not make the folder of the masks {str(out)!r}: {error}") from None
    with coco_file(out / "masks.coco.json", options) as coco:
        for result in map(Attribution.from_row, rows):
            if result.error is not None:
                counts["failed"] += 1
                continue
            name = heatmap_name(result.pair.id, result.pair.key)
            regions = segment(result.saliency_at(*result.pair.image_size), options)
            with atomic_write(out / name) as file:
                Image.fromarray(regions.mask).convert("L").save(file, format="PNG")
            coco.add(result, name, regions)
            counts["written"] += 1
            counts["empty"] += not regions.areas
            if judge is not None:
                judge.compare(result, name, regions.mask)
    return counts


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of task=attribute")
    parser.add_argument("--out", type=Path, help="where masks go; RUN/masks unless given")
    parser.add_argument("--threshold", choices=THRESHOLDS, default="otsu")
    parser.add_argument("--value", type=float, help="of fixed (of the min-max map) and energy (of the mass): 0.5")
    parser.add_argument("--smooth", type=float, default=0.0, help="pixels")
    parser.add_argument("--keep", choices=get_args(Keep), default="all", help="parts of a mask")
    parser.add_argument("--min-area", type=int, default=1, help="pixels of a part")
    parser.add_argument("--truth", type=Path, metavar="FOLDER", help="true masks, to compare with")
    given = parser.parse_args(arguments)
    if given.value is not None and given.threshold not in TAKES_A_VALUE:
        parser.error(f"--value is for --threshold {' and '.join(TAKES_A_VALUE)}; {given.threshold} finds its own")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command: 0, or 2 when it or its input was no good."""
    given = parse(arguments)
    value = 0.5 if given.value is None else given.value
    out = given.out if given.out is not None else given.run / "masks"
    try:
        options = RegionOptions(given.threshold, value, given.smooth, keep=given.keep, min_area=given.min_area)
        judge = None if given.truth is None else Judge(given.truth)
        counts = convert(given.run, out, options, judge)
    except M2IBError as error:
        _say(f"error: {error}")
        return 2
    if judge is not None:
        judge.end()
    print(f"{counts['written']} masks ({counts['empty']} of them empty) and masks.coco.json in {out}")
    if counts["failed"]:
        print(f"{counts['failed']} pairs skipped: they failed, the table's column 'error' says why")
    return 0


if __name__ == "__main__":
    sys.exit(main())
