"""Regions as a data set that FiftyOne imports: ``labels.json`` in COCO's format, and ``data/`` with the pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.coco import CocoWriter, coco_file
from m2ib_lightning.results.formats.picture_copies import Pictures
from m2ib_lightning.results.segmentation import RegionOptions, Regions


class FiftyoneSet:
    """Writes the regions of each picture; pairs with one picture share its image.

    FiftyOne knows an image by its file: a name in ``data/``, or an absolute path. A picture that has no file here is
    left out. The files of all pictures stay in memory until the end.

    Args:
        folder: folder of the data set.
        coco: writer of ``labels.json``.
        pictures: the pictures of the run.
    """

    def __init__(self, folder: Path, coco: CocoWriter, pictures: Pictures) -> None:
        self._folder = folder
        self._coco = coco
        self._pictures = pictures
        self._names: dict[str, str | None] = {}

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write the regions of one pair; see ``MaskWriter``."""
        image = result.pair.image
        if image not in self._names:
            self._names[image] = self._name(result.pair, Path(mask_name).stem)
        name = self._names[image]
        if name is not None:
            self._coco.add_to_picture(result, name, regions)

    def _name(self, pair: Pair, stem: str) -> str | None:
        """Return the name of a picture in ``labels.json``, or None if it has no file."""
        if self._pictures.copies:
            return self._pictures.copy(pair, self._folder / "data", stem)
        file = self._pictures.file(pair)
        return None if file is None else str(file)


@contextmanager
def fiftyone_set(folder: Path, options: RegionOptions, pictures: Pictures) -> Iterator[FiftyoneSet]:
    """Open a data set of FiftyOne's type ``COCODetectionDataset``; ``labels.json`` is written atomically."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    with coco_file(folder / "labels.json", options) as coco:
        yield FiftyoneSet(folder, coco, pictures)
