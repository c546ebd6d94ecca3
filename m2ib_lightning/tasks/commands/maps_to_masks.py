"""Turns the heatmaps of a run into masks and boxes: a PNG for each explained pair, and one file in COCO's format.

    m2ib-fit maps-to-masks RUN --threshold otsu --keep largest
    m2ib-fit maps-to-masks RUN --threshold fixed --value 0.4 --truth masks/

The raw map is segmented at the picture's own size; pixels that the model did not see are outside. Masks have 255 inside
and 0 outside. ``masks.coco.json`` has an image for each pair, so a picture with two captions has two. It has an
annotation for each region, whose score is the mean of the heatmap there. With ``--truth``, the true mask of a pair has
the name of the written mask, or is ``<id>.png``; its light half (grey from 128) is inside.

Rows are read one at a time, with the columns of the map only, and each mask is written at once.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from PIL import Image

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.coco import coco_file
from m2ib_lightning.results.segmentation import Keep, RegionOptions, segment
from m2ib_lightning.results.thresholds import TAKES_A_VALUE, THRESHOLDS
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.table import load_attributions
from m2ib_lightning.tasks.commands.command_parser import CommandParser
from m2ib_lightning.tasks.commands.true_masks import TrueMasks

COLUMNS = (
    *("key", "id", "image", "caption", "error"),
    *("image_saliency", "grid_height", "grid_width", "image_width", "image_height", "crop"),
)
"""Columns of the table from which a map is restored."""


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument is wrong, or the run can't be read.
    """
    arguments = _parse(words)
    value = 0.5 if arguments.value is None else arguments.value
    out = arguments.out if arguments.out is not None else arguments.run / "masks"
    options = RegionOptions(
        arguments.threshold, value, arguments.smooth, keep=arguments.keep, min_area=arguments.min_area
    )
    truth = None if arguments.truth is None else TrueMasks(arguments.truth)
    counts = write_masks(arguments.run, out, options, truth)
    if truth is not None:
        truth.print_means()
    print(f"{counts['written']} masks ({counts['empty']} of them empty) and masks.coco.json in {out}")
    if counts["failed"]:
        print(f"{counts['failed']} pairs skipped: they failed, the table's column 'error' says why")
    return 0


def write_masks(run: Path, out: Path, options: RegionOptions, truth: TrueMasks | None = None) -> Counter[str]:
    """Write the masks of a run and their COCO file; return the numbers of written, empty and failed ones.

    Args:
        run: run directory of ``task=attribute``.
        out: folder of the masks.
        options: how the heatmaps are segmented.
        truth: true masks to compare with, or None.

    Raises:
        M2IBError: if the run can't be read, or the folder can't be made.
    """
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
            if truth is not None:
                truth.compare(result, name, regions.mask)
    return counts


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("maps-to-masks", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of task=attribute")
    parser.add_argument("--out", type=Path, help="folder of the masks; default: RUN/masks")
    parser.add_argument("--threshold", choices=THRESHOLDS, default="otsu", help="default: %(default)s")
    parser.add_argument(
        "--value", type=float, help="fixed: threshold of the min-max map; energy: share of the mass; default: 0.5"
    )
    parser.add_argument("--smooth", type=float, default=0.0, help="sigma of a Gaussian filter, in pixels")
    parser.add_argument("--keep", choices=get_args(Keep), default="all", help="regions of a mask; default: %(default)s")
    parser.add_argument("--min-area", type=int, default=1, help="smallest region, in pixels; default: %(default)s")
    parser.add_argument("--truth", type=Path, metavar="FOLDER", help="true masks to compare with")
    arguments = parser.parse(words)
    if arguments.value is not None and arguments.threshold not in TAKES_A_VALUE:
        parser.error(
            f"--value is for --threshold {' and '.join(TAKES_A_VALUE)}; {arguments.threshold} finds its own threshold"
        )
    return arguments
