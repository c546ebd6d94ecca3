"""Scenes to train on, and training in this process."""

from __future__ import annotations

from typing import Any

import torch
from lightning import Trainer

from m2ib_lightning import load_model
from m2ib_lightning.datamodules.scenes import ScenesDataModule
from m2ib_lightning.finetuning import FinetuneDataModule, IBClipModule
from m2ib_lightning.models import LoadedModel


def scenes(
    limit: int,
    batch_size: int,
    validation: float = 0.0,
    seed: int = 3,
    truth: bool = True,
    pictures: int = 0,
    name: str = "scenes",
) -> tuple[LoadedModel, FinetuneDataModule]:
    """A bundled model, and scenes to train it on."""
    model = load_model(name)
    pairs = ScenesDataModule(model.preparer, seed=seed, limit=limit, batch_size=batch_size, truth=truth)
    pairs.setup("fit")
    return model, FinetuneDataModule(pairs, 0, validation, pictures=pictures)


def train(module: IBClipModule, data: FinetuneDataModule, **options: Any) -> Trainer:
    """Train for one epoch, or as the options say."""
    trainer = Trainer(
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        use_distributed_sampler=False,
        **{"max_epochs": 1, "logger": False, **options},
    )
    trainer.fit(module, datamodule=data)
    return trainer


def weights(module: IBClipModule) -> dict[str, torch.Tensor]:
    """Copies of the model's weights."""
    return {name: value.detach().clone() for name, value in module.network.model.named_parameters()}
