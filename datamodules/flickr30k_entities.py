"""Load Flickr30k Entities: the phrases of captions, with the boxes of what they name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from typing_extensions import override

from m2ib_lightning.datamodules.annotated_pictures import AnnotatedDataModule, AnnotationOptions, first_folder
from m2ib_lightning.datamodules.base import register_datamodule
from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.annotations.annotated import Annotated, AnnotatedSource
from m2ib_lightning.pairs.annotations.phrases import NOT_VISUAL, Entities, parse_sentence, read_entities
from m2ib_lightning.pairs.truth import RawTruth

_PICTURES = ("flickr30k-images", "flickr30k_images", "images", "Images")


class _Place(NamedTuple):
    """Where a pair comes from: a phrase, or the line or file that can't be read."""

    picture: str
    line: int
    phrase: int
    error: str | None = None

    @property
    def identity(self) -> str:
        numbers = [str(number) for number in (self.line, self.phrase) if number >= 0]
        return ".".join([self.picture, *numbers])


class Flickr30kEntitiesSource(AnnotatedSource):
    """The phrases with boxes of Flickr30k Entities. The key is ``<folder>:<picture>.<sentence>.<phrase>``.

    The caption of a pair is the phrase, and its sentence is kept beside it. Phrases that name the whole scene, or
    nothing in the picture, are left out. A sentence whose mark-up is broken is one failed row.

    Args:
        folder: the folder with ``Sentences`` and ``Annotations``.
        image_root: folder of the pictures.
        split: name of a file ``<split>.txt`` in the folder, with the pictures to read; None for all.
        one_caption: whether only the first sentence of each picture is read.

    Raises:
        M2IBError: if the folder has another layout, or lacks the split.
    """

    def __init__(self, folder: Path, image_root: Path, *, split: str | None = None, one_caption: bool = False) -> None:
        self.folder = folder
        if not all((folder / name).is_dir() for name in ("Sentences", "Annotations")):
            raise M2IBError(
                f"data.path={str(folder)!r} is not a folder of Flickr30k Entities: it needs the folders Sentences and "
                "Annotations"
            )
        self.places = [place for picture in _pictures(folder, split) for place in _places(folder, picture, one_caption)]
        super().__init__(folder.name, image_root, (place.identity for place in self.places), {})

    @override
    def place(self, index: int) -> str:
        picture, line, _, _ = self.places[index]
        return f"Sentences/{picture}.txt{f', line {line + 1}' if line >= 0 else ''}"

    @override
    def annotated(self, index: int) -> Annotated:
        picture, line, number, error = self.places[index]
        if error is not None:
            raise PairError(error)
        sentence, phrases = parse_sentence(_sentences(self.folder, picture)[line])
        entities, phrase = _entities(self.folder, picture), phrases[number]
        truth = RawTruth(boxes=entities.boxes[phrase.entity], label=None, size=entities.size)
        return Annotated(f"{picture}.jpg", phrase.text, truth, sentence)


def _pictures(folder: Path, split: str | None) -> list[str]:
    """The names of the pictures, in the order of their numbers."""
    if split is None:
        names = [file.stem for file in (folder / "Sentences").glob("*.txt")]
    else:
        file = folder / f"{split}.txt"
        if not file.is_file():
            exists = ", ".join(sorted(path.stem for path in folder.glob("*.txt"))) or "none"
            raise M2IBError(f"{str(folder)!r} has no split {split!r} (data.split): its .txt files are {exists}")
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return sorted(names, key=lambda name: (int(name) if name.isdecimal() else -1, name))


def _places(folder: Path, picture: str, one_caption: bool) -> Iterator[_Place]:
    try:
        lines = _sentences(folder, picture)
        entities = _entities(folder, picture)
    except PairError as error:
        yield _Place(picture, -1, -1, str(error))
        return
    for number, line in enumerate(lines[: 1 if one_caption else None]):
        try:
            phrases = parse_sentence(line)[1]
        except PairError as error:
            yield _Place(picture, number, -1, str(error))
            continue
        for index, phrase in enumerate(phrases):
            if phrase.entity in entities.boxes:
                yield _Place(picture, number, index)
            elif phrase.entity not in entities.boxless and phrase.entity != NOT_VISUAL:
                why = f"the phrase {phrase.text!r} names entity {phrase.entity}, which Annotations/{picture}.xml lacks"
                yield _Place(picture, number, index, why)


@lru_cache(maxsize=16)  # the phrases of a picture stand together
def _sentences(folder: Path, picture: str) -> list[str]:
    file = folder / "Sentences" / f"{picture}.txt"
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise PairError("there is no such file") from None
    except UnicodeDecodeError as error:
        raise PairError(f"it is not UTF-8 ({error.reason} at byte {error.start})") from None
    except OSError as error:
        raise PairError(f"it could not be read: {error.strerror}") from None


@lru_cache(maxsize=16)
def _entities(folder: Path, picture: str) -> Entities:
    return read_entities(folder / "Annotations" / f"{picture}.xml")


class Flickr30kEntitiesDataModule(AnnotatedDataModule):
    """Loads the pairs of Flickr30k Entities (``Flickr30kEntitiesSource``)."""

    source_name = "flickr30k-entities"
    needs = "the folder of Flickr30k Entities, with Sentences and Annotations in it"
    reads = ("split", "one_caption")

    @override
    def open_annotations(self, path: Path, options: AnnotationOptions) -> Flickr30kEntitiesSource:
        places = (folder / name for folder in (path, path.parent) for name in _PICTURES)
        root = options.image_root or first_folder(*places, path)
        return Flickr30kEntitiesSource(path, root, split=options.split, one_caption=options.one_caption)


register_datamodule("flickr30k-entities", Flickr30kEntitiesDataModule)
