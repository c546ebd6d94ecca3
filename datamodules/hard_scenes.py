"""Load hard scenes with ground truth: relations, counting, negation, occlusion, crowds and busy backgrounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image
from typing_extensions import override

from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import PairDataModule, loader_arguments, refuse_path, register_datamodule
from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.pairs.pair import PairSource, RawPair
from m2ib_lightning.pairs.prepare import Preparer
from m2ib_lightning.pairs.truth import OtherCaption, RawTruth
from m2ib_lightning.scenes.hard import KINDS, HardScene, paint_hard_scene
from m2ib_lightning.scenes.hard.absent import absent_kind
from m2ib_lightning.scenes.hard.statement import frame, one

SCENES_OF_A_KIND = 200
"""Number of scenes of each kind without a limit."""

ALL = "all"
"""The split that has all kinds."""

_STREAM = 2  # keeps the scenes apart from the ordinary ones of the same seed


class HardSceneSource:
    """A source of hard scenes as pairs. A scene depends only on ``seed`` and its index.

    The index decides the kind: the kinds take turns. A split has the scenes of one kind, with the keys that they have
    among all.

    Args:
        seed: seed of the set of scenes.
        count: number of scenes.
        split: a kind of ``KINDS``, or ``all``.
        truth: whether the pairs carry the ground truth that their maps are scored with, and the false captions.

    Raises:
        M2IBError: if there is no such split; the message lists those that exist.
    """

    generated = True  # from keys of the configuration, so nothing in it can change between starts

    def __init__(
        self, seed: int, count: int = SCENES_OF_A_KIND, split: str | None = None, *, truth: bool = False
    ) -> None:
        splits = (ALL, *KINDS)
        if split is not None and split not in splits:
            raise M2IBError(
                f"data.split of hard-scenes must be one of {', '.join(splits)}, got {split!r}.{nearest(split, splits)}"
            )
        self.seed = seed
        self.count = count
        self.kind = None if split in (None, ALL) else split
        self.truth = truth

    def __len__(self) -> int:
        return self.count

    def scene(self, position: int) -> HardScene:
        """Return the scene at a position of the split, with its ground truth."""
        index = self._index(position)
        return paint_hard_scene(np.random.default_rng([self.seed, index, _STREAM]), _kind(index))

    def key(self, position: int) -> str:
        """Return the key of a scene: its set and its index among the scenes of all kinds."""
        return f"hard-scenes-{self.seed}:{self._index(position)}"

    def __getitem__(self, position: int) -> RawPair:
        scene = self.scene(position)
        return RawPair(
            key=self.key(position),
            image=Image.fromarray(scene.image),
            uri=f"hard-scenes://{self.seed}/{scene.kind}/{self._index(position)}",
            caption=scene.composition.caption.text,
            truth=self._truth(position, scene) if self.truth else None,
        )

    def _index(self, position: int) -> int:
        return position if self.kind is None else len(KINDS) * position + list(KINDS).index(self.kind)

    def _truth(self, position: int, scene: HardScene) -> RawTruth:
        plan = scene.composition
        rng = np.random.default_rng([self.seed, self._index(position), _STREAM, 1])
        present, index = plan.present
        absent = frame(rng)(one(absent_kind(rng, (obj.attributes for obj in plan.objects))))
        return RawTruth(
            scene.mask,
            content=plan.caption.content,
            others=[
                OtherCaption("present", present.text, np.asarray(scene.visible[index] > 0.5)),
                OtherCaption("absent", absent.text),
                *(OtherCaption("given", opposite.text) for opposite in plan.opposites.values()),
            ],
        )


def _kind(index: int) -> str:
    return list(KINDS)[index % len(KINDS)]


class HardScenesDataModule(PairDataModule):
    """Loads hard scenes as pairs.

    Args:
        preparer: the preparer of the model that reads the pairs.
        seed: seed of the set of scenes.
        split: a kind of scenes, or ``all``, as for ``HardSceneSource``.
        truth: whether the pairs carry the ground truth that their maps are scored with.
        options: arguments of ``PairDataModule``.
    """

    default_workers = 0  # painting a scene is cheaper than starting a process

    def __init__(
        self, preparer: Preparer, *, seed: int = 0, split: str | None = None, truth: bool = False, **options: Any
    ) -> None:
        super().__init__(preparer, **options)
        self.seed = seed
        self.split = split
        self.truth = truth

    @override
    @classmethod
    def from_config(cls, config: Config, preparer: Preparer) -> HardScenesDataModule:
        refuse_path(config.data)
        return cls(
            preparer,
            seed=config.seed,
            split=config.data.split,
            truth=config.task != "attribute",
            **loader_arguments(config),
        )

    @override
    def open_source(self) -> PairSource:
        kinds = len(KINDS) if self.split in (None, ALL) else 1
        count = max(SCENES_OF_A_KIND * kinds, self.limit or 0)
        return HardSceneSource(self.seed, count, self.split, truth=self.truth)


register_datamodule("hard-scenes", HardScenesDataModule)
