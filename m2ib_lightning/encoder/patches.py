"""Converts maps of patches to maps of pixels, and back."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Give every pixel (..., H, W) the value of its patch (..., h, w).

    If the patches do not fill the picture, the pixels beyond the last patch get its value.
    """
    height, width = cells.shape[-2:]
    rows = (torch.arange(size[0], device=cells.device) // (size[0] // height)).clamp(max=height - 1)
    columns = (torch.arange(size[1], device=cells.device) // (size[1] // width)).clamp(max=width - 1)
    return cells[..., rows, :][..., columns]


def gather(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean (..., h, w) of the pixels (..., H, W) in each patch of ``grid``.

    Pixels beyond the last patch are ignored.
    """
    height, width = pixels.shape[-2] // grid[0], pixels.shape[-1] // grid[1]  # of one patch
    covered = pixels[..., : height * grid[0], : width * grid[1]]
    return covered.unflatten(-2, (grid[0], height)).unflatten(-1, (grid[1], width)).mean((-3, -1))
