"""Synthetic scenes with ground truth: the pixels of each object, and the words that name it."""

from m2ib_lightning.scenes.objects import UNSAID, Attributes
from m2ib_lightning.scenes.painter import Difficulty, Scene, paint_scene
from m2ib_lightning.scenes.scene_captions import Caption, describe, hard_negative, training_captions
from m2ib_lightning.scenes.truth_matrix import truth_matrix

__all__ = [
    "UNSAID",
    "Attributes",
    "Caption",
    "Difficulty",
    "Scene",
    "describe",
    "hard_negative",
    "paint_scene",
    "training_captions",
    "truth_matrix",
]
