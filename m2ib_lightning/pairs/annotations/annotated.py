"""Pairs of annotation files: a caption, its picture, and the boxes or the mask of what the caption names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m2ib_lightning.errors import PairError, quoted, shortened
from m2ib_lightning.pairs.embedded import embedded_picture
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.tables.image_paths import image_path
from m2ib_lightning.pairs.truth import RawTruth

MAX_CAPTION = 2**20
"""Length of the longest caption that is read."""


@dataclass(frozen=True)
class Annotated:
    """A caption and its picture, as an annotation file provides them.

    Attributes:
        image: path of the picture, as in a table (``image_path``): below the folder of the pictures, from ``/`` or
            ``~/``, or as a ``file:`` URL; a URL; or the picture itself, as a ``data:`` URI or in base64.
        caption: the caption.
        truth: where the picture shows what the caption names; None if the file does not say.
        sentence: the sentence that the caption is a phrase of, or None.
    """

    image: Any
    caption: Any
    truth: RawTruth | None = None
    sentence: str | None = None


class AnnotatedSource(ABC):
    """The pairs of annotation files, by position. An annotation that can't be read only costs its own row.

    A pair's key is ``<file>:<id of the annotation>``, so that it stays the same when annotations are added.

    Args:
        name: name of the file or folder, for keys and error messages.
        image_root: folder of the pictures.
        identities: ids of the annotations, in the order of the pairs.
        files: path of each annotation file, by its name in keys.

    Attributes:
        note: what a reader of the results must know about the source; empty for nothing.
    """

    note = ""

    def __init__(self, name: str, image_root: Path, identities: Iterable[Any], files: Mapping[str, str]) -> None:
        self.name = name
        self.image_root = image_root
        self.files = dict(files)
        self._identities, self._broken = _unique(identities)

    @abstractmethod
    def annotated(self, index: int) -> Annotated:
        """Return the caption and picture at a position.

        Raises:
            PairError: if the annotation can't be read; the message says why, without naming its place.
        """

    def place(self, index: int) -> str:
        """Return where an annotation stands, for error messages."""
        return f"annotation {shortened(self._identities[index])} of {shortened(self.name)}"

    def __len__(self) -> int:
        return len(self._identities)

    def key(self, index: int) -> str:
        """Return the key of a pair."""
        return f"{self.name}:{self._identities[index]}"

    def __getitem__(self, index: int) -> RawPair:
        key, identity = self.key(index), self._identities[index]
        failed = RawPair(key=key, image=None, uri=key, caption=None, id=identity)
        try:
            if index in self._broken:
                raise PairError(self._broken[index])
            return self._pair(failed, self.annotated(index))
        except Exception as error:  # a broken annotation only costs its row
            why = str(error) if isinstance(error, PairError) else f"{type(error).__name__}: {error}"
            return RawPair(key=key, image=None, uri=key, caption=None, id=identity, error=f"{self.place(index)}: {why}")

    def _pair(self, blank: RawPair, found: Annotated) -> RawPair:
        caption = found.caption
        if not isinstance(caption, str):
            raise PairError(f"the caption must be text, got {quoted(caption)}")
        if len(caption) > MAX_CAPTION:
            raise PairError(f"the caption has {len(caption):,} characters; captions of up to {MAX_CAPTION:,} are read")
        if not isinstance(found.image, str) or not found.image:
            raise PairError(f"the name of the picture must be text, got {quoted(found.image)}")
        picture = embedded_picture(found.image)
        return RawPair(
            key=blank.key,
            image=image_path(found.image, self.image_root) if picture is None else picture,
            uri=found.image if picture is None else blank.key,
            caption=caption.strip(),
            id=blank.id,
            truth=found.truth,
            sentence=found.sentence,
        )


def _unique(identities: Iterable[Any]) -> tuple[list[str], dict[int, str]]:
    """Return the ids as text, all of them different, and what is wrong with some, by position."""
    texts: list[str] = []
    counts: dict[str, int] = {}
    broken = {}
    for index, identity in enumerate(identities):
        text = str(identity)
        if not isinstance(identity, int | str) or not text.strip():
            broken[index] = f"the id must be a number or text, got {quoted(identity)}"
            text = f"no-id-{index}"
        while (count := counts.get(text, 0)) > 0:
            counts[text] += 1
            text = f"{text}.{count}"
            broken[index] = "an earlier annotation has the same id: ids must be unique"
        counts[text] = 1
        texts.append(text)
    return texts, broken
