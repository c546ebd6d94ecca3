"""The scenes that the bundled model is trained on: easy ones first, each with several captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, refuse_path, register_datamodule
from m2ib_lightning.pairs.pair import PairSource, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth
from m2ib_lightning.scenes import Caption, Difficulty, paint_scene
from m2ib_lightning.scenes.objects import UNSAID, Attributes
from m2ib_lightning.scenes.scene_captions import training_captions

SCENES = 32_000
"""Number of scenes without a limit."""

_CAPTIONS = 4
"""Number of captions of each scene: of one object, of two, of up to three (or a hard negative), and a hard negative."""


class SceneCourse:
    """Scenes that become harder. A scene depends only on ``seed``, ``count`` and its index.

    The first scenes have one object, centred on the grid; later ones have two to four, with more jitter. The other
    captions of a pair are true ones and hard negatives. The truth's ``named`` and ``contains`` tell which caption is
    true of which scene. Two phrases of a caption must fit two different objects. This check misses two phrases that
    overlap while neither contains the other, such as a small star and a red star. A single small red star then passes
    for both. This happens for one in 4,000 combinations of a scene and a caption.

    Args:
        seed: seed of the course.
        count: number of scenes.
    """

    generated = True  # from keys of the configuration, so nothing in it can change between starts

    def __init__(self, seed: int, count: int = SCENES) -> None:
        self.seed = seed
        self.count = count

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """Return the key of a scene: its course and its index."""
        return f"scene-course-{self.seed}-{self.count}:{index}"

    def difficulty(self, index: int) -> Difficulty:
        """Return the difficulty of the scene at an index."""
        progress = index / self.count
        if progress < 0.05:
            return Difficulty(objects=(1, 1), jitter=0, rotation=0)
        if progress < 0.14:
            return Difficulty(objects=(1, 2), jitter=1, rotation=0)
        if progress < 0.35:
            return Difficulty(objects=(2, 3), jitter=1, rotation=0)
        if progress < 0.4:
            return Difficulty(jitter=1, rotation=0)
        return Difficulty()

    def __getitem__(self, index: int) -> RawPair:
        rng = np.random.default_rng([self.seed, index])
        scene = paint_scene(rng, self.difficulty(index))
        first, *others = training_captions(rng, scene.objects, _CAPTIONS)
        contains = numbered(name for obj in scene.objects for name in names(obj))
        truth = RawTruth(
            others=[OtherCaption("given", caption.text, named=_named(caption)) for caption in others],
            contains=contains,
            named=_named(first),
        )
        uri = f"scene-course://{self.seed}/{self.count}/{index}"
        return RawPair(self.key(index), Image.fromarray(scene.image), uri, first.text, truth=truth)


def names(obj: Attributes) -> list[str]:
    """Return every name that a phrase can give an object.

    >>> names(Attributes(0, 1, 1))
    ['red square large', 'red square', 'red large', 'red', 'square large', 'square', 'large']
    """
    return [
        Attributes(*(value if place in stated else UNSAID for place, value in enumerate(obj))).name
        for stated in ((0, 1, 2), (0, 1), (0, 2), (0,), (1, 2), (1,), (2,))
    ]


def numbered(things: Iterable[str]) -> tuple[str, ...]:
    """Number repeated names, so that each name stands for one thing.

    >>> numbered(["red", "square", "red"])
    ('red', 'square', 'red 2')
    """
    counts: Counter[str] = Counter()
    unique = []
    for thing in things:
        counts[thing] += 1
        unique.append(thing if counts[thing] == 1 else f"{thing} {counts[thing]}")
    return tuple(unique)


def _named(caption: Caption) -> tuple[str, ...]:
    """Names that a caption states; a name that k phrases imply stands for its k-th object, as in ``numbered``."""
    phrases = [phrase.name for phrase in caption.phrases]
    named = []
    for phrase in phrases:
        count = sum(set(phrase.split()) <= set(other.split()) for other in phrases)
        named.append(phrase if count == 1 else f"{phrase} {count}")
    return tuple(named)


class SceneCourseDataModule(PairDataModule):
    """Loads the pairs of a scene course; ``data.limit`` is the length of the course.

    Args:
        preparer: the preparer of the model that reads the pairs.
        seed: seed of the course.
        options: arguments of ``PairDataModule``.
    """

    default_workers = 1

    def __init__(self, preparer: Preparer, *, seed: int = 0, **options: Any) -> None:
        super().__init__(preparer, **options)
        self.seed = seed

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> SceneCourseDataModule:
        refuse_path(config.data)
        return cls(preparer, seed=config.seed, **loader_arguments(config))

    @override
    def open_source(self) -> PairSource:
        return SceneCourse(self.seed, self.limit or SCENES)


register_datamodule("scene-course", SceneCourseDataModule)
