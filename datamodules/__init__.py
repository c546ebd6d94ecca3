"""Data modules that load pairs, one per source. Import them from ``m2ib_lightning.datamodules``."""

from m2ib_lightning.datamodules.base import PairDataModule, register_datamodule
from m2ib_lightning.datamodules.captions import CaptionsDataModule
from m2ib_lightning.datamodules.scene_course import SceneCourseDataModule
from m2ib_lightning.datamodules.scenes import ScenesDataModule

__all__ = ["CaptionsDataModule", "PairDataModule", "SceneCourseDataModule", "ScenesDataModule", "register_datamodule"]
