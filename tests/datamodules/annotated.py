"""Pictures and checks for the sources of annotated pictures.

The model sees the middle 60 x 60 pixels of a picture of 120 x 60, columns 30 to 90, on a grid of 4 x 4 cells of 15
pixels. ``BOX`` is the cell in row 1 and column 3.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from m2ib_lightning import load_model
from m2ib_lightning.cli import main
from m2ib_lightning.config import Config
from m2ib_lightning.datamodules.base import DATAMODULES
from m2ib_lightning.errors import M2IBError
from m2ib_lightning.metrics import pointing_game
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.pair import Pair, PairSource, PairStream, PreparedPair
from m2ib_lightning.pairs.prepare import PairDataset, Preparer
from m2ib_lightning.pairs.truth import Mask
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.folders import save_clip_folder, save_photograph

WIDTH, HEIGHT = 120, 60
BOX = [75, 15, 15, 15]
"""[left, top, width, height] of the grid's cell in row 1 and column 3."""

CORNERS = [[75, 15], [90, 15], [90, 30], [75, 30]]


_MODELS = TemporaryDirectory(prefix="annotated-")  # removed when the tests end


@cache
def model_folder() -> Path:
    """A CLIP model with random weights."""
    return save_clip_folder(Path(_MODELS.name))


@cache
def preparer() -> Preparer:
    """The preparer of the model."""
    return load_model(str(model_folder())).preparer


def save_pictures(folder: Path, *names: str, width: int = WIDTH, height: int = HEIGHT) -> Path:
    """Save a picture under each name that has none."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            save_photograph(folder / name, width, height)
    return folder


def write_json(path: Path, content: Any) -> Path:
    """Write a JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def open_pairs(*words: str) -> PairSource:
    """Open the source that words of the command line (``data.key=value``) describe."""
    config = Config()
    for word in words:
        key, _, value = word.partition("=")
        name = key.removeprefix("data.")
        kind = type(getattr(config.data, name))  # parsing the whole schema takes longer than opening a source
        setattr(config.data, name, value == "true" if kind is bool else float(value) if kind is float else value)
    datamodule = DATAMODULES.get(config.data.source).from_config(config, preparer())
    datamodule.setup("fit")
    assert not isinstance(datamodule.source, PairStream)
    return datamodule.source


def opening_error(*words: str) -> str:
    """Return the message of the error with which a source can't be opened."""
    try:
        open_pairs(*words)
    except M2IBError as error:
        return str(error)
    raise AssertionError("the source was opened")


def pairs_of(source: PairSource, annotated_as: str | None = None) -> list[Pair]:
    """Return the prepared pairs of a source, failed ones included."""
    options = preparer().with_options(fit=None, images=ImageRules(annotated_as=annotated_as))
    items = PairDataset(source, options).__getitems__(range(len(source)))
    return [item.pair if isinstance(item, PreparedPair) else item for item in items]


def errors_of(source: PairSource, annotated_as: str | None = None) -> dict[str, str]:
    """Return the errors of a source's failed pairs, by key."""
    return {pair.key: pair.error for pair in pairs_of(source, annotated_as) if pair.error is not None}


def mask_of(pair: Pair) -> Mask:
    """Return the mask of a pair, which it must have."""
    assert pair.error is None, pair.error
    assert pair.truth is not None
    assert pair.truth.mask is not None
    return pair.truth.mask


def box_of(pair: Pair) -> list[int]:
    """Return the box around the mask of a pair; the mask must fill it."""
    mask = mask_of(pair)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [int(columns[0]), int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    assert mask.sum() == box[2] * box[3]
    return box


def assert_lies_in_cell(pair: Pair, row: int = 1, column: int = 3) -> None:
    """Of the maps with one lit cell, the one whose cell the box fills hits it, and the others miss it."""
    assert (pair.image_size, pair.crop) == ((WIDTH, HEIGHT), (30, 0, 90, 60))
    for cell in range(16):
        grid = np.zeros((4, 4), np.float32)
        grid.flat[cell] = 1
        saliency = torch.from_numpy(Attribution(pair, 0.0, TowerAttribution(grid)).saliency_at(WIDTH, HEIGHT))
        seen = ~saliency.isnan()
        hit = pointing_game(saliency[seen], torch.tensor(mask_of(pair))[seen])
        assert hit == (cell == 4 * row + column)


def evaluate(folder: Path, *words: str) -> str:
    """Run ``task=evaluate`` and return its table."""
    quick = ["task=evaluate", f"model.name={model_folder()}", 'evaluate.methods=["saliency", "random"]']
    quick += ["evaluate.baseline=saliency", "evaluate.metrics=[localisation]", "evaluate.resamples=50"]
    quick += ["evaluate.pictures=0", "evaluate.probed=0", "trainer.enable_progress_bar=false", "data.num_workers=0"]
    assert main([*quick, *words, f"output_dir={folder}"]) in (0, 1)
    return (folder / "table.md").read_text()
