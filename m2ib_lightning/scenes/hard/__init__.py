"""Scenes that are harder than those the bundled model was trained on, each in one way."""

from m2ib_lightning.scenes.hard.composition import Composition, Placed
from m2ib_lightning.scenes.hard.hard_scene import KINDS, HardScene, paint_hard_scene
from m2ib_lightning.scenes.hard.statement import Statement

__all__ = ["KINDS", "Composition", "HardScene", "Placed", "Statement", "paint_hard_scene"]
