"""Turns the heatmaps of a run into masks, boxes and prompts: a PNG for each pair, and one file in COCO's format.

    m2ib-fit maps-to-masks RUN --threshold otsu --keep largest
    m2ib-fit maps-to-masks RUN --threshold 0.4 --truth masks/
    m2ib-fit maps-to-masks RUN --format yolo,prompts --copy-pictures
    m2ib-fit maps-to-masks RUN --key pairs.csv:3

The raw map is segmented at the picture's own size; pixels that the model did not see are outside. --threshold 0.5
takes the pixels whose heatmap, which goes from 0 to 1 in each picture, is 0.5 or more. The default, otsu, finds a
threshold for each map. Masks have 255 inside and 0 outside. With --truth, the true mask of a pair has the name of the
written mask, or is <id>.png; its light half (grey from 128) is inside.

Formats (--format, several with commas; default: png,coco):
  png       a mask for each pair
  coco      masks.coco.json: an image for each pair, so a picture with two captions has two; an annotation for each
            region, whose score is the mean of the heatmap there
  yolo      yolo/: labels/*.txt for each pair, data.yaml, and pictures.jsonl, which says whose labels they are
  prompts   prompts.jsonl for SAM or MedSAM: for each pair a box around the mask, and the highest point of each region
  datasets  datasets/: an image folder with masks/ and metadata.jsonl
  fiftyone  fiftyone/: data/ and labels.json, which FiftyOne imports as COCODetectionDataset

Boxes of prompts and datasets are [x0, y0, x1, y1], in pixels of the picture. --copy-pictures puts a copy of each
picture beside the labels. Without it, files have the paths of the table, and FiftyOne's has absolute paths.

Rows are read one at a time, with the columns of the map only, and each mask is written at once.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, get_args

import pyarrow.compute as pc

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.formats import DEFAULT_FORMATS, FORMATS
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.segmentation import Keep, RegionOptions, segment
from m2ib_lightning.results.thresholds import TAKES_A_VALUE, THRESHOLDS
from m2ib_lightning.run.directory import heatmap_name
from m2ib_lightning.run.picture_files import PictureFiles
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
    threshold, value = arguments.threshold, 0.5 if arguments.value is None else arguments.value
    if isinstance(threshold, float):
        threshold, value = "fixed", threshold
    options = RegionOptions(threshold, value, arguments.smooth, keep=arguments.keep, min_area=arguments.min_area)
    truth = None if arguments.truth is None else TrueMasks(arguments.truth)
    rows = load_attributions(arguments.run, COLUMNS)
    out = arguments.out if arguments.out is not None else arguments.run / "masks"
    for column in ("key", "id"):
        if (wanted := getattr(arguments, column)) is not None:
            rows = _rows_of(rows, column, wanted)
            name = Path(heatmap_name(rows[0]["id"], rows[0]["key"])).stem
            out = arguments.out or arguments.run / f"masks-{name}"
    pictures = Pictures(PictureFiles(arguments.run, arguments.image_root), copies=arguments.copy_pictures)
    counts = write_masks(rows, out, options, arguments.format, pictures, truth)
    if truth is not None:
        truth.print_means()
    _print_counts(counts, out, arguments.format, pictures)
    return 0


def write_masks(
    rows: Any,
    out: Path,
    options: RegionOptions,
    formats: Sequence[str],
    pictures: Pictures,
    truth: TrueMasks | None = None,
) -> Counter[str]:
    """Write the masks of a run in some formats; return the numbers of written, empty and failed ones.

    Args:
        rows: rows of the run's table, with ``COLUMNS``.
        out: folder of the masks.
        options: how the heatmaps are segmented.
        formats: names of the formats.
        pictures: the pictures of the run.
        truth: true masks to compare with, or None.

    Raises:
        M2IBError: if the folder can't be made.
    """
    counts: Counter[str] = Counter()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise M2IBError(f"could not make the folder of the masks {str(out)!r}: {error}") from None
    with ExitStack() as stack:
        writers = [stack.enter_context(FORMATS[name](out, options, pictures)) for name in formats]
        for result in map(Attribution.from_row, rows):
            if result.error is not None:
                counts["failed"] += 1
                continue
            name = heatmap_name(result.pair.id, result.pair.key)
            regions = segment(result.saliency_at(*result.pair.image_size), options)
            for writer in writers:
                writer.add(result, name, regions)
            counts["written"] += 1
            counts["empty"] += not regions.areas
            if truth is not None:
                truth.compare(result, name, regions.mask)
    return counts


def _rows_of(rows: Any, column: str, wanted: str) -> Any:
    """Return the rows with some key or id.

    Raises:
        M2IBError: if there is none; names the nearest.
    """
    places = pc.indices_nonzero(pc.equal(rows.data.column(column), wanted)).to_pylist()
    if not places:
        names = list(dict.fromkeys(rows[column]))
        example = f" The first one is {names[0]!r}." if names else ""
        raise M2IBError(f"the run has no pair whose {column} is {wanted!r}.{nearest(wanted, names)}{example}")
    return rows.select(places)


def _print_counts(counts: Counter[str], out: Path, formats: Sequence[str], pictures: Pictures) -> None:
    masks = f"{counts['written']} masks ({counts['empty']} of them empty)"
    if tuple(formats) == DEFAULT_FORMATS:
        print(f"{masks} and masks.coco.json in {out}")
    else:
        print(f"{masks} as {', '.join(formats)} in {out}")
    if pictures.missing:
        print(pictures.missing_text + (" They are not in fiftyone/" if "fiftyone" in formats else ""))
    if counts["failed"]:
        print(f"{counts['failed']} pairs skipped: they failed, the table's column 'error' says why")


def _formats(text: str) -> tuple[str, ...]:
    """Return the names of formats, which are separated by commas."""
    names = tuple(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(
                f"must be some of {', '.join(FORMATS)}, with commas, got {name!r}.{nearest(name, FORMATS)}"
            )
    return names


def _threshold(text: str) -> str | float:
    """Return the name of a threshold, or the threshold itself."""
    if text in THRESHOLDS:
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"must be one of {', '.join(THRESHOLDS)}, or a number above 0 and at most 1, got {text!r}."
            f"{nearest(text, THRESHOLDS)}"
        )
    return value


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = CommandParser("maps-to-masks", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of task=attribute")
    one = parser.add_mutually_exclusive_group()
    one.add_argument("--key", help="only the pair with this key")
    one.add_argument("--id", help="only the pairs with this id")
    parser.add_argument("--out", type=Path, help="folder of the masks; default: RUN/masks, for --key RUN/masks-<name>")
    parser.add_argument("--format", type=_formats, default=DEFAULT_FORMATS, help="see above; default: png,coco")
    parser.add_argument(
        "--threshold",
        type=_threshold,
        default="otsu",
        help=f"{', '.join(THRESHOLDS)}, or a number: pixels whose heatmap in [0, 1] is that high, after --smooth; "
        "default: %(default)s",
    )
    parser.add_argument(
        "--value", type=float, help="fixed: threshold of the min-max map; energy: share of the mass; default: 0.5"
    )
    parser.add_argument("--smooth", type=float, default=0.0, help="sigma of a Gaussian filter, in pixels")
    parser.add_argument("--keep", choices=get_args(Keep), default="all", help="regions of a mask; default: %(default)s")
    parser.add_argument("--min-area", type=int, default=1, help="smallest region, in pixels; default: %(default)s")
    parser.add_argument("--truth", type=Path, metavar="FOLDER", help="true masks to compare with")
    parser.add_argument("--copy-pictures", action="store_true", help="put a copy of each picture beside its labels")
    parser.add_argument(
        "--image-root", type=Path, metavar="FOLDER", help="folder of relative picture paths; default: that of the run"
    )
    arguments = parser.parse(words)
    if arguments.value is not None and arguments.threshold not in TAKES_A_VALUE:
        if isinstance(arguments.threshold, float):
            parser.error("--threshold is a number already: give it without --value")
        parser.error(
            f"--value is for --threshold {' and '.join(TAKES_A_VALUE)}; {arguments.threshold} finds its own threshold"
        )
    return arguments
