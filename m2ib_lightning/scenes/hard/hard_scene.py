"""Hard scenes: a picture, its plan, and the visible pixels of each object."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from m2ib_lightning.scenes.hard.backdrops import compose_background
from m2ib_lightning.scenes.hard.composition import Composition
from m2ib_lightning.scenes.hard.counting import compose_counting
from m2ib_lightning.scenes.hard.crowding import compose_crowding
from m2ib_lightning.scenes.hard.nearness import compose_nearness
from m2ib_lightning.scenes.hard.negation import compose_negation
from m2ib_lightning.scenes.hard.occlusion_scenes import compose_occlusion
from m2ib_lightning.scenes.hard.relations import compose_relations
from m2ib_lightning.scenes.hard.sizes import compose_sizes
from m2ib_lightning.scenes.hard.textures import light, photographic_background
from m2ib_lightning.scenes.painter import CANVAS, Floats, noisy_background, paint_object

KINDS: dict[str, Callable[[np.random.Generator], Composition]] = {
    "relations": compose_relations,
    "nearness": compose_nearness,
    "sizes": compose_sizes,
    "counting": compose_counting,
    "negation": compose_negation,
    "occlusion": compose_occlusion,
    "crowding": compose_crowding,
    "background": compose_background,
}
"""The kinds of hard scenes, by name. The order decides the kind of each index, so new kinds change all sets."""


@dataclass(frozen=True)
class HardScene:
    """A picture and its ground truth.

    Attributes:
        kind: name of the kind, a key of ``KINDS``.
        composition: the plan of the scene.
        image: picture (64, 64, 3), uint8.
        visible: masks (objects, 64, 64), float32; each value is the share of the pixel in which the object is seen.
    """

    kind: str
    composition: Composition
    image: NDArray[np.uint8]
    visible: Floats

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Mask (64, 64) of the visible pixels of what the caption is about."""
        return np.asarray(np.any(self.visible[list(self.composition.targets)] > 0.5, axis=0))


def paint_hard_scene(rng: np.random.Generator, kind: str) -> HardScene:
    """Paint a random scene of a kind."""
    composition = KINDS[kind](rng)
    image = photographic_background(rng) if composition.textured else noisy_background(rng)
    visible = np.zeros((len(composition.objects), CANVAS, CANVAS), np.float32)
    for index, obj in enumerate(composition.objects):
        visible[index] = paint_object(rng, image, *obj)
        visible[:index] *= 1 - visible[index]
    if composition.textured:
        image = light(rng, image)
    return HardScene(kind, composition, np.clip(image, 0, 255).astype(np.uint8), visible)
