"""Between patches and pixels: a value for each patch, and the mean of each patch."""

from __future__ import annotations

import torch
from torch import Tensor


def spread(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """A value for each patch (..., h, w) to one for each pixel (..., H, W): every pixel of a patch has the patch's.

    Where patches do not fill the picture, the last ones take the rest, which no patch reads.
    """
    height, width = cells.shape[-2:]
    rows = (torch.arange(size[0], device=cells.device) // (size[0] // height)).clamp(max=height - 1)
    columns = (torch.arange(size[1], device=cells.device) // (size[1] // width)).clamp(max=width - 1)
    return cells[..., rows, :][..., columns]


def gather(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """The mean of each patch: (..., H, W) to (..., h, w)."""
    high, wide = pixels.shape[-2] // grid[0], pixels.shape[-1] // grid[1]
    whole = pixels[..., : high * grid[0], : wide * grid[1]]
    return whole.unflatten(-2, (grid[0], high)).unflatten(-1, (grid[1], wide)).mean((-3, -1))
