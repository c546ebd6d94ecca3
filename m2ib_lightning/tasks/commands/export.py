"""Exports a run as an image folder: the pictures, their heatmaps, and a table of both.

    m2ib-fit export RUN FOLDER
    python -c "import datasets; print(datasets.load_dataset('imagefolder', data_dir='FOLDER'))"

FOLDER/metadata.csv has a row for each pair: file_name (the copy of the picture), heatmap_file_name (a grey picture of
the heatmap, 0 black and 1 white), key, id, picture (the path in the run's table), caption, similarity and error. Copies
are upright. Pictures at URLs or in archives, and drawn scenes, have no file to copy; their rows have the heatmap only.

Nothing is uploaded. load_dataset(...).push_to_hub("OWNER/NAME") does that, if the pictures are yours to publish.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.run.image_folder import export_image_folder
from m2ib_lightning.run.picture_files import PictureFiles
from m2ib_lightning.tasks.commands.command_parser import CommandParser


def main(words: Sequence[str]) -> int:
    """Run the command; return its exit status.

    Raises:
        M2IBError: if an argument is wrong, the folder is not empty, or the run can't be read.
    """
    parser = CommandParser("export", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run directory of task=attribute")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder to write to, new or empty")
    parser.add_argument(
        "--image-root", type=Path, metavar="PATH", help="folder of relative picture paths; default: that of the run"
    )
    arguments = parser.parse(words)
    pictures = Pictures(PictureFiles(arguments.run, arguments.image_root), copies=True)
    counts = export_image_folder(arguments.run, arguments.folder, pictures)
    print(
        f"{counts['rows']} rows, {counts['heatmaps']} heatmaps and {counts['pictures']} pictures in {arguments.folder}"
    )
    if pictures.missing:
        print(pictures.missing_text)
    if counts["failed"]:
        print(f"{counts['failed']} rows are of pairs that failed: the column 'error' says why")
    return 0
