"""Load COCO captions; what they name has the masks of the instances file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import AnnotatedDataModule, AnnotationOptions, first_folder
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.datamodules.instance_masks import Instance, Instances
from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.json_files import Id, by_id, id_of, read_json, records
from m2ib_lightning.pairs.annotations.named_labels import LabelFinder
from m2ib_lightning.pairs.truth import RawTruth
from m2ib_lightning.run.outcome import count_of


class CocoSource(AnnotatedSource):
    """The captions of a COCO file. The key is ``<file>:<id of the caption>``.

    The mask of a caption is the union of the picture's annotations, crowds included, whose category the caption names
    as a word or a simple plural. A caption that names none has no mask.

    Args:
        file: path of the captions file.
        image_root: folder of the pictures.
        instances: the objects of the pictures; None for no masks.
        one_caption: whether only the first caption of each picture is read.

    Raises:
        M2IBError: if the file can't be read, or has another layout.
    """

    def __init__(
        self, file: Path, image_root: Path, instances: Instances | None = None, *, one_caption: bool = False
    ) -> None:
        content = read_json(file)
        self.images = by_id(records(content, "images", file, "a COCO captions file"))
        captions = records(content, "annotations", file, "a COCO captions file")
        if captions and not any("caption" in found for found in captions[:100]):
            raise M2IBError(
                f"{str(file)!r} is not a COCO captions file: its annotations have no 'caption' but "
                f"{', '.join(map(repr, list(captions[0])[:8]))}"
            )
        if one_caption:
            first: dict[Id, dict[str, Any]] = {}
            for found in captions:
                first.setdefault(id_of(found, "image_id"), found)
            captions = list(first.values())
        self.captions = captions
        self.instances = instances
        self.finder = LabelFinder(() if instances is None else instances.categories.values())
        super().__init__(file.name, image_root, (found.get("id") for found in captions), {file.name: str(file)})
        if instances is None:
            self.note = "no instances file, so no masks"
        else:
            crowds = f", with {count_of(instances.crowds, 'crowd annotation')}" if instances.crowds else ""
            self.note = f"masks from {instances.name}{crowds}"

    @override
    def annotated(self, index: int) -> Annotated:
        found = self.captions[index]
        image_id = id_of(found, "image_id")
        image = self.images.get(image_id)
        if image is None:
            raise PairError(f"the image_id {quoted(found.get('image_id'))} is not among the images of {self.name}")
        caption = found.get("caption")
        return Annotated(image.get("file_name"), caption, self._truth(image_id, caption))

    def _truth(self, image_id: Id, caption: object) -> RawTruth | None:
        if self.instances is None or not isinstance(caption, str):
            return None
        spans = self.finder.find(caption.strip())
        categories: dict[str, list[Instance]] = {}
        for annotation in self.instances.of_image(image_id):
            category = self.instances.category(annotation)
            if category in spans:
                categories.setdefault(category, []).append(annotation)
        if not categories:
            return None
        return self.instances.truth(
            [annotation for annotations in categories.values() for annotation in annotations],
            content=sorted(span for category in categories for span in spans[category]),
            label=next(iter(categories)) if len(categories) == 1 else None,
        )


class CocoDataModule(AnnotatedDataModule):
    """Loads the pairs of a COCO captions file (``CocoSource``)."""

    source_name = "coco"
    needs = "a captions_*.json file of COCO"
    reads = ("instances", "one_caption")

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> CocoSource:
        instances = options.instances or instances_beside(path)
        root = options.image_root or pictures_beside(path)
        return CocoSource(
            path, root, None if instances is None else Instances(instances), one_caption=options.one_caption
        )


def instances_beside(captions: Path) -> Path | None:
    """Return the instances file beside a captions file, by COCO's names; None if there is none."""
    for name in (captions.name.replace("captions", "instances", 1), "instances.json"):
        if name != captions.name and (captions.parent / name).is_file():
            return captions.parent / name
    return None


def pictures_beside(captions: Path) -> Path:
    """Return the folder with the pictures of a file such as ``annotations/captions_val2017.json``.

    It is ``val2017`` beside the file or one folder up, there also in ``images``; else the folder of the file.
    """
    split = captions.stem.rpartition("_")[2]
    folder, parent = captions.parent, captions.parent.parent
    return first_folder(folder / split, parent / split, parent / "images" / split, folder)


register_datamodule("coco", CocoDataModule)
