"""Load the referring expressions of RefCOCO, RefCOCO+ and RefCOCOg: each names one object of a COCO picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import (
    AnnotatedDataModule,
    AnnotationOptions,
    chosen_split,
    first_folder,
)
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.datamodules.instance_masks import Instances
from m2ib_lightning.errors import M2IBError, PairError, quoted
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.json_files import id_of, read_json
from m2ib_lightning.pairs.annotations.recognise import PICKLES

_CONVERT = (
    "python -c \"import json, pickle; json.dump(pickle.load(open('refs(unc).p', 'rb'), encoding='latin1'), "
    "open('refs(unc).json', 'w'))\""
)


class RefCocoSource(AnnotatedSource):
    """The expressions of a file of references. The key is ``<file>:<sent_id>``.

    The mask is that of the object to which the expression refers; its category is the label.

    Args:
        file: path of the references, as JSON.
        image_root: folder of the pictures.
        instances: the objects of the pictures.
        split: split to read; None for all.
        one_caption: whether only the first expression of each object is read.

    Raises:
        M2IBError: if the file can't be read, has another layout, or lacks the split.
    """

    def __init__(
        self,
        file: Path,
        image_root: Path,
        instances: Instances,
        *,
        split: str | None = None,
        one_caption: bool = False,
    ) -> None:
        references = read_json(file)
        if not isinstance(references, list) or not all(_is_reference(found) for found in references):
            raise M2IBError(
                f"{str(file)!r} is not a file of RefCOCO's references: it must be a list of objects with 'ann_id', "
                "'image_id' and a list 'sentences'"
            )
        chosen_split(file.name, split, {found["split"] for found in references if isinstance(found.get("split"), str)})
        self.instances = instances
        self.expressions: list[tuple[dict[str, Any], dict[str, Any]]] = [
            (found, sentence)
            for found in references
            if split is None or found.get("split") == split
            for sentence in found["sentences"][: 1 if one_caption else None]
        ]
        identities = (sentence.get("sent_id") for _, sentence in self.expressions)
        super().__init__(file.name, image_root, identities, {file.name: str(file)})

    @override
    def place(self, index: int) -> str:
        return f"sentence {self._identities[index]} of {self.name}"

    @override
    def annotated(self, index: int) -> Annotated:
        reference, sentence = self.expressions[index]
        instances = self.instances
        image = instances.images.get(id_of(reference, "image_id"))
        if image is None:
            raise PairError(f"the image_id {quoted(reference['image_id'])} is not among the images of {instances.name}")
        annotation = instances.by_id.get(id_of(reference, "ann_id"))
        if annotation is None or annotation.get("image_id") != reference["image_id"]:
            raise PairError(
                f"the ann_id {quoted(reference['ann_id'])} is no annotation of image {reference['image_id']!r} in "
                f"{instances.name}"
            )
        # the file_name of a reference has the id of the annotation in it, which no picture has
        caption = sentence.get("sent", sentence.get("raw"))
        return Annotated(
            image.get("file_name"), caption, instances.truth([annotation], label=instances.category(annotation))
        )


def _is_reference(found: Any) -> bool:
    if not isinstance(found, dict) or not {"ann_id", "image_id", "sentences"} <= found.keys():
        return False
    return isinstance(found["sentences"], list) and all(isinstance(sentence, dict) for sentence in found["sentences"])


class RefCocoDataModule(AnnotatedDataModule):
    """Loads the pairs of a file of referring expressions (``RefCocoSource``)."""

    source_name = "refcoco"
    needs = "the references of RefCOCO, RefCOCO+ or RefCOCOg as JSON, with instances.json beside them"
    reads = ("split", "instances", "one_caption")

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> RefCocoSource:
        if path.suffix.lower() in PICKLES:
            raise M2IBError(
                f"data.path={str(path)!r} is a pickle, which can run code when it is opened, and is never read. If you "
                f"trust it, convert it once: {_CONVERT}"
            )
        instances = options.instances or path.parent / "instances.json"
        if not instances.is_file():
            raise M2IBError(
                f"data.name=refcoco needs the objects of the pictures: there is no file {str(instances)!r} "
                "(data.instances names it)"
            )
        return RefCocoSource(
            path,
            options.image_root or _pictures_beside(path),
            Instances(instances),
            split=options.split,
            one_caption=options.one_caption,
        )


def _pictures_beside(references: Path) -> Path:
    """Return the folder of COCO's train2014 pictures, in the places where RefCOCO's own tools expect it."""
    folder, parent = references.parent, references.parent.parent
    return first_folder(
        *(parent / "images" / "mscoco" / name / "train2014" for name in ("images", "")),
        *(parent / "images" / "train2014", parent / "train2014", folder / "train2014", folder),
    )


register_datamodule("refcoco", RefCocoDataModule)
