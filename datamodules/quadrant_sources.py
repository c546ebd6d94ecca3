"""Pictures of four quadrants, each of which shows another object: the pointing game of FIxLIP.

Baniecki et al. (NeurIPS 2025) put four images of ImageNet into a grid of 2 x 2, and name one to four of their objects.
A map of a named object should lie in its quadrant (``metrics.part_scores``).
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from typing_extensions import override

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import looks_like_an_image, read_image
from m2ib_lightning.pairs.pair import RawPair
from m2ib_lightning.pairs.truth import Mask, NamedPart, OtherCaption, RawTruth
from m2ib_lightning.scenes import UNSAID, Attributes, Difficulty, Scene, paint_scene
from m2ib_lightning.scenes.painter import CANVAS
from m2ib_lightning.scenes.vocabulary import COLOUR_NAMES, SHAPES

PICTURES = 500
"""Number of pictures without a limit."""

SIDE = 224
"""Width and height of the quadrant of a user's image, in pixels."""

_QUADRANTS = 4
_STREAM = 3  # keeps the draws apart from those of other sources with the same seed


class Quadrant(NamedTuple):
    """A square image (S, S), and the name of what it shows."""

    name: str
    image: Image.Image


class QuadrantSource(ABC):
    """A source of pictures of four quadrants. A pair depends only on the source, ``seed`` and its index.

    The caption names the first objects drawn, and a quadrant's place says nothing about that.

    Args:
        seed: seed of the draws.
        count: number of pictures.
        mentioned: number of objects that each caption names.
        truth: whether the pairs carry the ground truth that their maps are scored with.

    Raises:
        M2IBError: if the caption can't name that many objects.
    """

    generated = False

    def __init__(self, seed: int, count: int = PICTURES, mentioned: int = 1, *, truth: bool = False) -> None:
        if not 1 <= mentioned <= _QUADRANTS:
            raise M2IBError(
                f"a picture of quadrants has {_QUADRANTS} objects, and the caption names 1 to {_QUADRANTS} of them, "
                f"got data.mentioned={mentioned}"
            )
        self.seed = seed
        self.count = count
        self.mentioned = mentioned
        self.truth = truth

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the pictures come from, for keys."""

    @abstractmethod
    def quadrants(self, rng: np.random.Generator) -> list[Quadrant]:
        """Return four images of different objects, all of one size.

        Raises:
            PairError: if an image can't be read.
        """

    @abstractmethod
    def absent(self, rng: np.random.Generator, present: set[str]) -> str | None:
        """Return the name of an object that the picture lacks; None if there is none."""

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """Return the key of a picture."""
        return f"{self.place}-{self.seed}:{index}"

    def __getitem__(self, index: int) -> RawPair:
        rng = np.random.default_rng([self.seed, index, _STREAM])
        uri = f"quadrants://{self.place}/{self.seed}/{index}"
        try:
            found = self.quadrants(rng)
        except PairError as error:
            return RawPair(key=self.key(index), image=None, uri=uri, caption=None, error=str(error))
        places = rng.permutation(_QUADRANTS).tolist()
        caption, spans = name_all([quadrant.name for quadrant in found[: self.mentioned]])
        picture = compose([quadrant.image for quadrant in found], places)
        return RawPair(
            key=self.key(index),
            image=picture if self.generated else _bytes_of(picture),  # a resumed run compares bytes, not pictures
            uri=uri,
            caption=caption,
            spans=spans,
            truth=self._truth(rng, found, places, spans) if self.truth else None,
        )

    def _truth(
        self, rng: np.random.Generator, found: list[Quadrant], places: list[int], spans: list[tuple[int, int]]
    ) -> RawTruth:
        names = tuple(quadrant.name for quadrant in found)
        masks = [mask_of(place, found[0].image.width) for place in places]
        others = []
        if self.mentioned < _QUADRANTS:
            unnamed = names[self.mentioned]
            others.append(OtherCaption("present", name_all([unnamed])[0], masks[self.mentioned], (unnamed,)))
        absent = self.absent(rng, set(names))
        if absent is not None:
            others.append(OtherCaption("absent", name_all([absent])[0], named=(absent,)))
        return RawTruth(
            np.logical_or.reduce(masks[: self.mentioned]),
            content=spans,
            others=others,
            contains=names,
            named=names[: self.mentioned],
            parts=[NamedPart(*span, mask) for span, mask in zip(spans, masks, strict=False)],
        )


class SceneQuadrants(QuadrantSource):
    """Quadrants of scenes: the part of a scene with one object, at its own size."""

    generated = True  # from keys of the configuration, so nothing in it can change between starts
    place = "quadrants"

    @override
    def quadrants(self, rng: np.random.Generator) -> list[Quadrant]:
        scenes: dict[str, Scene] = {}
        while len(scenes) < _QUADRANTS:
            scene = paint_scene(rng, Difficulty(objects=(1, 1)))
            scenes.setdefault(scene.objects[0]._replace(size=UNSAID).name, scene)
        return [Quadrant(name, Image.fromarray(around(rng, scene))) for name, scene in scenes.items()]

    @override
    def absent(self, rng: np.random.Generator, present: set[str]) -> str:
        kinds = [Attributes(*kind).name for kind in np.ndindex(len(COLOUR_NAMES), len(SHAPES))]
        others = [name for name in kinds if name not in present]
        return others[rng.integers(len(others))]


class FolderQuadrants(QuadrantSource):
    """Quadrants of a user's images, in a folder for each label.

    The name of a folder is what a caption says of its images, with spaces for underscores. An image is cut to its
    middle square.

    Args:
        folder: folder with a subfolder of images for each label, at least four.
        seed: seed of the draws.
        count: number of pictures.
        mentioned: number of objects that each caption names.
        truth: whether the pairs carry the ground truth that their maps are scored with.
        rules: formats, size and time limit of images; None for the defaults.

    Raises:
        M2IBError: if fewer than four subfolders have images.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        count: int = PICTURES,
        mentioned: int = 1,
        *,
        truth: bool = False,
        rules: ImageRules | None = None,
    ) -> None:
        super().__init__(seed, count, mentioned, truth=truth)
        if not folder.is_dir():
            raise M2IBError(f"data.path={str(folder)!r} is not a folder: data.name=quadrants needs {_FORM}")
        self.folder = folder
        self.rules = rules
        self.labels = {sub.name.replace("_", " "): files for sub in _subfolders(folder) if (files := _images(sub))}
        if len(self.labels) < _QUADRANTS:
            raise M2IBError(
                f"data.path={str(folder)!r} has images in {len(self.labels)} subfolders: data.name=quadrants needs "
                f"{_FORM}"
            )

    @property
    @override
    def place(self) -> str:
        return f"quadrants-{self.folder.name}"

    @override
    def quadrants(self, rng: np.random.Generator) -> list[Quadrant]:
        names = list(self.labels)
        chosen = [names[k] for k in rng.choice(len(names), _QUADRANTS, replace=False)]
        files = [self.labels[name][rng.integers(len(self.labels[name]))] for name in chosen]
        return [Quadrant(name, self._square(file)) for name, file in zip(chosen, files, strict=True)]

    @override
    def absent(self, rng: np.random.Generator, present: set[str]) -> str | None:
        others = [name for name in self.labels if name not in present]
        return others[rng.integers(len(others))] if others else None

    def _square(self, file: Path) -> Image.Image:
        return ImageOps.fit(read_image(file, self.rules).picture, (SIDE, SIDE), Image.Resampling.BICUBIC)


_FORM = "a folder with a subfolder of images for each label, at least four (red_fox/1.jpg, sports_car/a.png, ...)"


def name_all(names: list[str]) -> tuple[str, list[tuple[int, int]]]:
    """Return a caption that names some objects, and the characters of each name.

    >>> name_all(["red circle", "owl"])
    ('a photo of a red circle and an owl', [(13, 23), (31, 34)])
    """
    caption, spans = "a photo of", []
    for index, name in enumerate(names):
        caption += f"{' and' if index else ''} {'an' if name[0].lower() in 'aeiou' else 'a'} "
        spans.append((len(caption), len(caption) + len(name)))
        caption += name
    return caption, spans


def compose(images: list[Image.Image], places: list[int]) -> Image.Image:
    """Return the picture with each image in its place: 0 top left, 1 top right, 2 bottom left, 3 bottom right."""
    side = images[0].width
    picture = Image.new("RGB", (2 * side, 2 * side))
    for image, place in zip(images, places, strict=True):
        picture.paste(image, (place % 2 * side, place // 2 * side))
    return picture


def _bytes_of(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "BMP")
    return file.getvalue()


def mask_of(place: int, side: int) -> Mask:
    """Return the mask (2 S, 2 S) of a quadrant."""
    mask = np.zeros((2 * side, 2 * side), np.bool_)
    top, left = place // 2 * side, place % 2 * side
    mask[top : top + side, left : left + side] = True
    return mask


def around(rng: np.random.Generator, scene: Scene) -> NDArray[np.uint8]:
    """Cut a square of half the canvas, which holds the whole object."""
    side = CANVAS // 2
    starts = []
    for axis in (1, 0):  # of the mask: rows are left when its columns are joined
        covered = (scene.masks[0] > 0).any(axis).nonzero()[0]
        first, last = max(0, int(covered[-1]) + 1 - side), min(int(covered[0]), CANVAS - side)
        starts.append(int(rng.integers(first, last + 1)))
    return scene.image[starts[0] : starts[0] + side, starts[1] : starts[1] + side]


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and looks_like_an_image(path.name) and not path.name.startswith(".")
    )
