"""Load the region descriptions of Visual Genome: each describes one box of a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import AnnotatedDataModule, AnnotationOptions
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.coordinates import checked_box, checked_size
from m2ib_lightning.pairs.annotations.json_files import Id, by_id, id_of, read_json
from m2ib_lightning.pairs.truth import RawTruth

_FOLDERS = ("VG_100K", "VG_100K_2", "VG_100K/VG_100K", "VG_100K_2/VG_100K_2", "images")


class VisualGenomeSource(AnnotatedSource):
    """The regions of a ``region_descriptions.json``. The key is ``<file>:<region_id>``.

    Args:
        file: path of the file.
        image_root: folder of the pictures, or of the folders ``VG_100K`` and ``VG_100K_2``.
        sizes: path of ``image_data.json``, which has the sizes of the pictures; None if there is none.

    Raises:
        M2IBError: if a file can't be read, or has another layout.
    """

    def __init__(self, file: Path, image_root: Path, sizes: Path | None = None) -> None:
        pictures = read_json(file)
        if not isinstance(pictures, list) or not all(_is_picture(found) for found in pictures):
            raise M2IBError(
                f"{str(file)!r} is not a file of region descriptions: it must be a list of objects with "
                "a list 'regions'"
            )
        self.pictures: list[dict[str, Any]] = pictures
        self._ends = np.cumsum([len(found["regions"]) for found in pictures], dtype=np.int64)
        self._facts = {} if sizes is None else _facts(sizes)
        identities = (region.get("region_id", region.get("id")) for found in pictures for region in found["regions"])
        super().__init__(file.name, image_root, identities, {file.name: str(file)})

    @override
    def place(self, index: int) -> str:
        return f"region {self._identities[index]} of {self.name}"

    @override
    def annotated(self, index: int) -> Annotated:
        number = int(np.searchsorted(self._ends, index, side="right"))
        picture = self.pictures[number]
        region = picture["regions"][index - int(self._ends[number])]  # counted from the last region
        image_id = id_of(region, "image_id") if "image_id" in region else _id_of_picture(picture)
        if image_id is None or (self._facts and image_id not in self._facts):
            raise PairError(f"the image_id {quoted(image_id)} is not among the images of image_data.json")
        facts = self._facts.get(image_id)
        size = None if facts is None else checked_size(facts.get("width"), facts.get("height"))
        box = checked_box([region.get(name) for name in ("x", "y", "width", "height")], size)
        return Annotated(self._find(image_id), region.get("phrase"), RawTruth(boxes=[box], size=size))

    def _find(self, image_id: Id) -> str:
        """The path of a picture below the folder of the pictures; its first place if it is missing."""
        name = f"{image_id}.jpg"
        places = [name, *(f"{folder}/{name}" for folder in _FOLDERS)]
        return next((place for place in places if (self.image_root / place).is_file()), name)


def _is_picture(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("regions"), list):
        return False
    return all(isinstance(region, dict) for region in found["regions"])


def _id_of_picture(picture: dict[str, Any]) -> Id:
    return id_of(picture, "image_id") if "image_id" in picture else id_of(picture)


def _facts(file: Path) -> dict[Id, dict[str, Any]]:
    content = read_json(file)
    if not isinstance(content, list) or not all(isinstance(found, dict) for found in content):
        raise M2IBError(f"{str(file)!r} must be a list of objects with 'image_id', 'width' and 'height'")
    return by_id([found | {"id": _id_of_picture(found)} for found in content])


class VisualGenomeDataModule(AnnotatedDataModule):
    """Loads the pairs of Visual Genome's region descriptions (``VisualGenomeSource``)."""

    source_name = "visual-genome"
    needs = "Visual Genome's region_descriptions.json"

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> VisualGenomeSource:
        sizes = path.parent / "image_data.json"
        return VisualGenomeSource(path, options.image_root or path.parent, sizes if sizes.is_file() else None)


register_datamodule("visual-genome", VisualGenomeDataModule)
