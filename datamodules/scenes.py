"""Load synthetic scenes with ground truth: coloured shapes, and captions that name some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, refuse_path, register_datamodule
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.pair import PairSource, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth
from m2ib_lightning.scenes import UNSAID, Caption, Difficulty, Scene, describe, paint_scene
from m2ib_lightning.scenes.objects import Attributes
from m2ib_lightning.scenes.scene_captions import FILLER_WORD
from m2ib_lightning.scenes.vocabulary import COLOUR_NAMES, SHAPES

SCENES = 500
"""Number of scenes without a limit."""

_MOST_OBJECTS = 4


@dataclass(frozen=True)
class SceneExample:
    """A scene, a caption of it, and the number of its first objects that the caption names."""

    scene: Scene
    caption: Caption
    mentioned: int


class SceneSource:
    """A source of scenes as pairs. A scene depends only on ``seed``, ``objects`` and its index.

    Args:
        seed: seed of the set of scenes.
        count: number of scenes.
        objects: number of objects in a scene.
        mentioned: number of objects that each caption names, by colour and shape.
        truth: whether the pairs carry the ground truth that their maps are scored with.
    """

    generated = True  # from keys of the configuration, so nothing in it can change between starts

    def __init__(
        self, seed: int, count: int = SCENES, objects: int = 3, mentioned: int = 1, *, truth: bool = False
    ) -> None:
        if not 1 <= mentioned <= objects <= _MOST_OBJECTS:
            raise M2IBError(
                f"scenes hold 1 to {_MOST_OBJECTS} objects and the caption names 1 or more of them, "
                f"got data.objects={objects} and data.mentioned={mentioned}"
            )
        self.seed = seed
        self.count = count
        self.objects = objects
        self.mentioned = mentioned
        self.truth = truth

    def __len__(self) -> int:
        return self.count

    def example(self, index: int) -> SceneExample:
        """Return the scene at an index, with its ground truth."""
        rng = np.random.default_rng([self.seed, index, self.objects])
        scene = paint_scene(rng, Difficulty(objects=(self.objects, self.objects)))
        named = [obj._replace(size=UNSAID) for obj in scene.objects[: self.mentioned]]
        return SceneExample(scene, describe(rng, named), self.mentioned)

    def key(self, index: int) -> str:
        """Return the key of a scene: its set and its index."""
        return f"scenes-{self.seed}:{index}"

    def __getitem__(self, index: int) -> RawPair:
        example = self.example(index)
        return RawPair(
            key=self.key(index),
            image=Image.fromarray(example.scene.image),
            uri=f"scenes://{self.seed}/{index}",
            caption=example.caption.text,
            truth=self._truth(index, example) if self.truth else None,
        )

    def _truth(self, index: int, example: SceneExample) -> RawTruth:
        scene, caption = example.scene, example.caption
        rng = np.random.default_rng([self.seed, index, self.objects, 1])
        others = []
        for kind, obj, mask in self._unnamed(rng, scene):
            others.append(OtherCaption(kind, describe(rng, [obj]).text, mask, named=(obj.name,)))
        contains = tuple(obj._replace(size=UNSAID).name for obj in scene.objects)
        return RawTruth(
            _union(scene.masks[: self.mentioned]),
            content=_content(caption),
            others=others,
            contains=contains,
            named=contains[: self.mentioned],
        )

    def _unnamed(
        self, rng: np.random.Generator, scene: Scene
    ) -> Iterator[tuple[str, Attributes, NDArray[np.bool_] | None]]:
        """Yield an object of the scene that the caption does not name, if any, and an object that the scene lacks."""
        if self.mentioned < self.objects:
            yield "present", scene.objects[self.mentioned]._replace(size=UNSAID), _union(scene.masks[[self.mentioned]])
        present = {obj[:2] for obj in scene.objects}
        kinds = [(colour, shape) for colour in range(len(COLOUR_NAMES)) for shape in range(len(SHAPES))]
        absent = [kind for kind in kinds if kind not in present]
        yield "absent", Attributes(*absent[rng.integers(len(absent))]), None


def _union(masks: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(np.any(masks > 0.5, axis=0))


def _content(caption: Caption) -> list[tuple[int, int]]:
    """Character spans of the words that name an object."""
    spans, start = [], 0
    for word, owner in zip(caption.words, caption.owners, strict=True):
        if owner != FILLER_WORD:
            spans.append((start, start + len(word)))
        start += len(word) + 1
    return spans


class ScenesDataModule(PairDataModule):
    """Loads synthetic scenes as pairs.

    Args:
        preparer: the preparer of the model that reads the pairs.
        seed: seed of the set of scenes.
        objects: number of objects in a scene.
        mentioned: number of objects that each caption names.
        truth: whether the pairs carry the ground truth that their maps are scored with.
        options: arguments of ``PairDataModule``.
    """

    default_workers = 0  # painting a scene is cheaper than starting a process

    def __init__(
        self,
        preparer: Preparer,
        *,
        seed: int = 0,
        objects: int = 3,
        mentioned: int = 1,
        truth: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(preparer, **options)
        self.seed = seed
        self.objects = objects
        self.mentioned = mentioned
        self.truth = truth

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> ScenesDataModule:
        data = config.data
        refuse_path(data)
        return cls(
            preparer,
            seed=config.seed,
            objects=data.objects,
            mentioned=data.mentioned,
            truth=config.task not in ("attribute", "ground"),
            **loader_arguments(config),
        )

    @override
    def open_source(self) -> PairSource:
        count = max(SCENES, self.limit or 0)
        return SceneSource(self.seed, count, self.objects, self.mentioned, truth=self.truth)


register_datamodule("scenes", ScenesDataModule)
