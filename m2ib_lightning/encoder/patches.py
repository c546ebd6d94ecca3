"""From patches to pixels and back."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Give every pixel (..., H, W) the value of its patch (..., h, w).

    If the patches do not fill the picture, the pixels that no patch reads get the value of the last patch.
    """
    height, width = cells.shape[-2:]
    rows = (torch.arange(size[0], device=cells.device) // (size[0] // height)).clamp(max=height - 1)
    columns = (torch.arange(size[1], device=cells.device) // (size[1] // width)).clamp(max=width - 1)
    return cells[..., rows, :][..., columns]


def gather(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean (..., h, w) of each patch of the pixels (..., H, W)."""
    high, wide = pixels.shape[-2] // grid[0], pixels.shape[-1] // grid[1]
    covered = pixels[..., : high * grid[0], : wide * grid[1]]
    return covered.unflatten(-2, (grid[0], high)).unflatten(-1, (grid[1], wide)).mean((-3, -1))
