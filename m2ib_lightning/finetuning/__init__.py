"""Fine-tuning with information-bottleneck regularisation: the same bottleneck, trained with the model."""

from m2ib_lightning.datamodules.training import FinetuneDataModule
from m2ib_lightning.finetuning.clip_module import IBClipModule

__all__ = ["FinetuneDataModule", "IBClipModule"]
