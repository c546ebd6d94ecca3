"""Writes the regions of many heatmaps to one file in COCO's format."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from m2ib_lightning.files import atomic_write
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.run_lengths import to_rle
from m2ib_lightning.results.segmentation import RegionOptions, Regions


class CocoWriter:
    """Writes a COCO file pair by pair, in bounded memory.

    The annotations wait in a second file until all images are written.

    Args:
        file: the COCO file, open for writing.
        waiting: empty temporary file for the annotations.
        options: options of the segmentation, which the file's ``info`` records.
    """

    def __init__(self, file: BinaryIO, waiting: BinaryIO, options: RegionOptions) -> None:
        self._file = file
        self._waiting = waiting
        self._images = 0
        self._annotations = 0
        self._pictures: dict[str, int] = {}
        info = {"description": "regions of the heatmaps of a run of m2ib_lightning", "options": asdict(options)}
        categories = [{"id": 1, "name": "explained"}]
        file.write(b'{"info": %b,\n"categories": %b,\n"images": [' % (_json(info), _json(categories)))

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write the entries of one pair: an image, and an annotation for each of its regions.

        Args:
            result: the pair's attribution; the score of a region is the mean of its heatmap there.
            mask_name: name of the file of the mask.
            regions: regions of the heatmap.
        """
        pair = result.pair
        names = {"file_name": pair.image, "mask_name": mask_name, "pair_id": pair.id, "key": pair.key}
        self._add_regions(self._add_image(names, pair.image_size), result, regions, {})

    def add_to_picture(self, result: Attribution, file_name: str, regions: Regions) -> None:
        """Write the entries of one pair, whose image is shared by all pairs with one ``file_name``.

        Args:
            result: the pair's attribution.
            file_name: name of the picture in the file. All names are kept in memory.
            regions: regions of the heatmap.
        """
        number = self._pictures.get(file_name)
        if number is None:
            number = self._pictures[file_name] = self._add_image({"file_name": file_name}, result.pair.image_size)
        self._add_regions(number, result, regions, {"key": result.pair.key})

    def _add_image(self, names: dict[str, str], size: tuple[int, int]) -> int:
        self._images += 1
        image = {"id": self._images, **names, "width": size[0], "height": size[1]}
        _append(self._file, image, first=self._images == 1)
        return self._images

    def _add_regions(self, image: int, result: Attribution, regions: Regions, more: dict[str, str]) -> None:
        heatmap = result.image_heatmap
        for mask, box, area in zip(regions.components, regions.boxes, regions.areas, strict=True):
            self._annotations += 1
            annotation: dict[str, Any] = {"id": self._annotations, "image_id": image}
            annotation |= {"category_id": 1, "iscrowd": 0}
            annotation |= {"segmentation": to_rle(mask), "bbox": box, "area": area}
            annotation |= {"score": float(heatmap[mask].mean()), "caption": result.pair.caption, **more}
            _append(self._waiting, annotation, first=self._annotations == 1)

    def close(self) -> None:
        """Write the annotations and the end of the COCO file. The file stays open."""
        self._file.write(b'\n],\n"annotations": [')
        self._waiting.seek(0)
        while piece := self._waiting.read(1 << 20):
            self._file.write(piece)
        self._file.write(b"\n]}\n")


@contextmanager
def coco_file(path: Path, options: RegionOptions) -> Iterator[CocoWriter]:
    """Open a COCO file for writing. The write is atomic: an exception leaves no partial file behind."""
    with atomic_write(path) as file, tempfile.TemporaryFile(dir=path.parent) as waiting:
        writer = CocoWriter(file, waiting, options)
        yield writer
        writer.close()


def _append(file: BinaryIO, entry: dict[str, Any], *, first: bool) -> None:
    file.write((b"\n" if first else b",\n") + _json(entry))


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False).encode()
