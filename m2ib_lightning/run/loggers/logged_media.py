"""Pictures, histograms and tables, for the loggers that show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from numpy.typing import NDArray
from PIL import Image


def shows_pictures(logger: Logger) -> bool:
    """Whether a logger shows pictures: all do but a CSV file."""
    return isinstance(logger, TensorBoardLogger | WandbLogger | MLFlowLogger)


def log_picture(loggers: Sequence[Logger], tag: str, picture: Image.Image, step: int) -> None:
    """Log a picture to TensorBoard, W&B and MLflow; a CSV file holds none."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, np.asarray(picture.convert("RGB")), step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(tag, [picture], step=step)
        elif isinstance(logger, MLFlowLogger):
            client: Any = logger.experiment
            client.log_image(logger.run_id, picture, artifact_file=f"{tag}/{step}.png")


def shows_histograms(logger: Logger) -> bool:
    """Whether a logger shows histograms: TensorBoard and W&B do."""
    return isinstance(logger, TensorBoardLogger | WandbLogger)


def log_histogram(loggers: Sequence[Logger], tag: str, values: NDArray[np.floating], step: int) -> None:
    """Log the distribution of values to the loggers that show histograms."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_histogram(tag, values, step)
        elif isinstance(logger, WandbLogger):
            import wandb

            histogram: Any = wandb.Histogram(np_histogram=np.histogram(values, bins=64))
            logger.log_metrics({tag: histogram}, step=step)


def log_text(loggers: Sequence[Logger], tag: str, markdown: str, step: int) -> None:
    """Log a text, such as a table in Markdown, to TensorBoard, W&B and MLflow."""
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_text(tag, markdown, step)
        elif isinstance(logger, WandbLogger):
            logger.log_text(tag, columns=["text"], data=[[markdown]])
        elif isinstance(logger, MLFlowLogger):
            client: Any = logger.experiment
            client.log_text(logger.run_id, markdown, artifact_file=f"{tag}.md")
