"""The part of a picture that its ground truth marks: its outline on the overlay, and whether the map hits it.

Legend: H x W pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

if TYPE_CHECKING:
    from m2ib_lightning.results.attribution import Attribution

_LINE, _BORDER = (64, 224, 255), (0, 0, 0)
_LONGEST_SIDE = 512
"""Longest side in pixels at which hit or miss is decided, as for the scores."""

LEAST_CUT = 0.005
"""Largest share of the marked part that may be cut away without a word: the edges of crops are rounded to pixels."""


def with_outline(result: Attribution, picture: Image.Image) -> Image.Image:
    """Return the picture with the outline of the marked part: a light line with a dark one around it."""
    mask = _mask_at(result, picture.size)
    if mask is None or not mask.any():
        return picture
    inside = Image.fromarray(mask).convert("L")
    pixels = np.array(picture)
    pixels[np.asarray(inside.filter(ImageFilter.MaxFilter(3))).astype(bool) & ~mask] = _BORDER
    pixels[mask & ~np.asarray(inside.filter(ImageFilter.MinFilter(5))).astype(bool)] = _LINE
    return Image.fromarray(pixels)


def marked_facts(result: Attribution) -> list[str]:
    """Return lines about the marked part: whether the map's highest point is on it, and how much the crop cuts away."""
    width, height = result.pair.image_size
    scale = min(1.0, _LONGEST_SIDE / max(width, height, 1))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    mask, cut = _mask_at(result, size), result.pair.share_cut_away
    if mask is None or cut is None or result.image is None:
        return []
    facts = []
    if cut < 1:
        saliency = result.saliency_at(*size)
        highest = saliency == np.nanmax(saliency)
        is_hit = float(mask[highest].mean()) >= 0.5
        facts.append(f"highest point: {'on' if is_hit else 'beside'} the outlined part")
    if cut > LEAST_CUT:
        facts.append(f"outside of what the model sees: {cut:.0%} of the outlined part")
    return facts


def _mask_at(result: Attribution, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the mask (H, W) at a size of the picture, or None if the pair has none."""
    truth = result.pair.truth
    if truth is None or truth.mask is None:
        return None
    if truth.mask.shape == size[::-1]:
        return np.array(truth.mask)
    return np.asarray(Image.fromarray(truth.mask).resize(size, Image.Resampling.NEAREST))
