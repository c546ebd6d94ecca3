"""Truth and map lie on one another through every way to fit a picture, and through EXIF rotations.

The model has a grid of 4 x 4 cells. Of the maps with one lit cell in the picture, exactly the one whose cell the box
fills hits it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from m2ib_lightning.metrics import pointing_game
from m2ib_lightning.pairs.pair import PreparedPair
from m2ib_lightning.pairs.prepare import PairDataset
from m2ib_lightning.results.attribution import Attribution, TowerAttribution
from tests.datamodules.annotated import mask_of, open_pairs, preparer
from tests.datamodules.test_exif_rotation import ms_cxr, save_picture

Box = tuple[int, int, int, int]

CASES: dict[str, tuple[str, int, list[int], tuple[int, int], Box]] = {
    # cells of 15 x 15 pixels from column 30 on
    "crop": ("crop", 1, [75, 15, 15, 15], (1, 3), (30, 0, 90, 60)),
    # cells of 30 x 30 pixels from row -30 on
    "pad": ("pad", 1, [60, 0, 30, 30], (1, 2), (0, -30, 120, 90)),
    # cells of 30 x 15 pixels
    "stretch": ("stretch", 1, [60, 15, 30, 15], (1, 2), (0, 0, 120, 60)),
    # shown, the box is [30, 75, 15, 15], and cells are 15 x 15 from row 30 on
    "crop, a quarter turn": ("crop", 6, [75, 15, 15, 15], (3, 2), (0, 30, 60, 90)),
    # shown, the box is [30, 30, 30, 30], and cells are 30 x 30 from column -30 on
    "pad, counterclockwise": ("pad", 8, [60, 30, 30, 30], (1, 2), (-30, 0, 90, 120)),
    # shown, the box is [30, 60, 15, 30], and cells are 15 x 30
    "stretch, mirrored": ("stretch", 5, [60, 30, 30, 15], (2, 2), (0, 0, 60, 120)),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("scale", [1, 3])
def test_the_cell_that_the_box_fills_is_the_one_that_hits(name: str, scale: int, tmp_path: Path) -> None:
    fit, orientation, box, (row, column), crop = CASES[name]
    save_picture(tmp_path / "a.jpg", orientation, scale)  # the annotation is of a picture of 120 x 60
    source = open_pairs(*ms_cxr(tmp_path, (120, 60), box))
    item = PairDataset(source, preparer().with_options(fit=fit))[0]
    assert isinstance(item, PreparedPair)
    pair = item.pair
    assert pair.crop == tuple(scale * edge for edge in crop)
    assert pair.share_cut_away == 0
    assert mask_of(pair).sum() == scale**2 * box[2] * box[3]
    left, top, right, bottom = crop
    for cell in range(16):
        x, y = left + (cell % 4 + 0.5) * (right - left) / 4, top + (cell // 4 + 0.5) * (bottom - top) / 4
        if not (0 < x * scale < pair.image_size[0] and 0 < y * scale < pair.image_size[1]):
            continue  # in the margin, from which the enlarged map only spills over
        grid = np.zeros((4, 4), np.float32)
        grid.flat[cell] = 1
        saliency = torch.from_numpy(Attribution(pair, 0.0, TowerAttribution(grid)).saliency_at(*pair.image_size))
        seen = ~saliency.isnan()
        hit = pointing_game(saliency[seen], torch.tensor(mask_of(pair))[seen])
        assert bool(hit) == (cell == 4 * row + column), (cell, row, column)
