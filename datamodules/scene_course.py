"""The scenes that the bundled model is trained on: easy ones first, each with several captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, register_datamodule
from m2ib_lightning.pairs.pair import PairSource, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth
from m2ib_lightning.scenes import Caption, Difficulty, paint_scene
from m2ib_lightning.scenes.objects import UNSAID, Attributes
from m2ib_lightning.scenes.scene_captions import training_captions

SCENES = 32_000
"""How many scenes there are where no limit is said."""

_CAPTIONS = 4
"""Of each scene: one object, two, up to three or a wrong one, a wrong one."""


class SceneCourse:
    """Scene ``index`` is made from (seed, index); how hard it is depends on its place among ``count``.

    One object in the grid's centres, then one or two, two or three, and two to four, with more and more jitter. The
    other captions of a pair are true ones and hard negatives; ``named`` and ``contains`` say which is true of what.
    Phrases of a caption are of different objects; only where two overlap and neither says all of the other (a small
    star and a red star) is the caption taken to be true also of one small red star: one pairing in 4,000.
    """

    def __init__(self, seed: int, count: int = SCENES) -> None:
        self.seed = seed
        self.count = count

    def __len__(self) -> int:
        return self.count

    def key(self, index: int) -> str:
        """Which course, and which scene of it."""
        return f"scene-course-{self.seed}-{self.count}:{index}"

    def difficulty(self, index: int) -> Difficulty:
        """Of the scene at that place."""
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
        own, *others = training_captions(rng, scene.objects, _CAPTIONS)
        contains = numbered(name for obj in scene.objects for name in names(obj))
        truth = RawTruth(
            others=[OtherCaption("given", caption.text, named=_named(caption)) for caption in others],
            contains=contains,
            named=_named(own),
        )
        uri = f"scene-course://{self.seed}/{self.count}/{index}"
        return RawPair(self.key(index), Image.fromarray(scene.image), uri, own.text, truth=truth)


def names(obj: Attributes) -> list[str]:
    """All that a phrase can call an object.

    >>> names(Attributes(0, 1, 1))
    ['red square large', 'red square', 'red large', 'red', 'square large', 'square', 'large']
    """
    return [
        Attributes(*(value if place in said else UNSAID for place, value in enumerate(obj))).name
        for said in ((0, 1, 2), (0, 1), (0, 2), (0,), (1, 2), (1,), (2,))
    ]


def numbered(things: Iterable[str]) -> tuple[str, ...]:
    """The second of a name is another thing than the first.

    >>> numbered(["red", "square", "red"])
    ('red', 'square', 'red 2')
    """
    seen: Counter[str] = Counter()
    found = []
    for thing in things:
        seen[thing] += 1
        found.append(thing if seen[thing] == 1 else f"{thing} {seen[thing]}")
    return tuple(found)


def _named(caption: Caption) -> tuple[str, ...]:
    """A phrase names as many things as there are phrases that say it, or more: each is of an object of its own."""
    said = [phrase.name for phrase in caption.phrases]
    found = []
    for own in said:
        count = sum(set(own.split()) <= set(other.split()) for other in said)
        found.append(own if count == 1 else f"{own} {count}")
    return tuple(found)


class SceneCourseDataModule(PairDataModule):
    """The course as pairs; ``data.limit`` is its length.

    Args:
        preparer: of the model that reads them.
        seed: which course.
        options: ``PairDataModule``'s.
    """

    default_workers = 1

    def __init__(self, preparer: Preparer, *, seed: int = 0, **options: Any) -> None:
        super().__init__(preparer, **options)
        self.seed = seed

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> SceneCourseDataModule:
        return cls(preparer, seed=config.seed, **loader_arguments(config))

    @override
    def open_source(self) -> PairSource:
        return SceneCourse(self.seed, self.limit or SCENES)


register_datamodule("scene-course", SceneCourseDataModule)
