"""Data modules that load pairs, one per source. Import them from ``m2ib_lightning.datamodules``."""

from m2ib_lightning.datamodules.base import PairDataModule, register_datamodule
from m2ib_lightning.datamodules.captions import CaptionsDataModule
from m2ib_lightning.datamodules.coco_captions import CocoDataModule
from m2ib_lightning.datamodules.conceptual_captions import ConceptualCaptionsDataModule
from m2ib_lightning.datamodules.flickr30k_entities import Flickr30kEntitiesDataModule
from m2ib_lightning.datamodules.hard_scenes import HardScenesDataModule
from m2ib_lightning.datamodules.label_studio import LabelStudioDataModule
from m2ib_lightning.datamodules.labelme import LabelMeDataModule
from m2ib_lightning.datamodules.ms_cxr import MsCxrDataModule
from m2ib_lightning.datamodules.quadrants import QuadrantsDataModule
from m2ib_lightning.datamodules.refcoco import RefCocoDataModule
from m2ib_lightning.datamodules.scene_course import SceneCourseDataModule
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.datamodules.visual_genome import VisualGenomeDataModule

__all__ = [
    "CaptionsDataModule",
    "CocoDataModule",
    "ConceptualCaptionsDataModule",
    "Flickr30kEntitiesDataModule",
    "HardScenesDataModule",
    "LabelMeDataModule",
    "LabelStudioDataModule",
    "MsCxrDataModule",
    "PairDataModule",
    "QuadrantsDataModule",
    "RefCocoDataModule",
    "SceneCourseDataModule",
    "ScenesDataModule",
    "VisualGenomeDataModule",
    "register_datamodule",
]
