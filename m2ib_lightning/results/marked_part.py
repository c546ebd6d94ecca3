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

_OUTLINE_SIDE = 96
"""Longest side in pixels of the marked part in short form."""

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
    is_hit, cut = highest_point_is_on_it(result), result.pair.share_cut_away
    if cut is None or result.image is None:
        return []
    facts = []
    if is_hit is not None:
        facts.append(f"highest point: {'on' if is_hit else 'beside'} the outlined part")
    if cut > LEAST_CUT:
        facts.append(f"outside of what the model sees: {cut:.0%} of the outlined part")
    return facts


def highest_point_is_on_it(result: Attribution) -> bool | None:
    """Return whether the map's highest point is on the marked part; None if the model sees nothing of that part."""
    size = _size_for_hits(result.pair.image_size)
    mask, cut = _mask_at(result, size), result.pair.share_cut_away
    if mask is None or cut is None or cut == 1 or result.image is None:
        return None
    saliency = result.saliency_at(*size)
    highest = saliency == np.nanmax(saliency)
    return float(mask[highest].mean()) >= 0.5


def outline_runs(result: Attribution) -> list[int] | None:
    """Return the marked part in short form, at 96 pixels a side: width, height, then the lengths of its runs.

    Runs are row-major and alternate; the first is outside of the part. None if the truth marks nothing.
    """
    if result.pair.share_cut_away is None or result.pair.truth is None:
        return None
    mask = result.pair.truth.mask
    assert mask is not None, "a share of it is cut away"
    scale = min(1.0, _OUTLINE_SIDE / max(mask.shape))
    width, height = max(1, round(mask.shape[1] * scale)), max(1, round(mask.shape[0] * scale))
    covered = np.asarray(Image.fromarray(mask).convert("L").resize((width, height), Image.Resampling.BOX))
    small = covered >= 128 if (covered >= 128).any() else covered == covered.max()
    flat = small.ravel()
    edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist()
    return [width, height, *np.diff([0, *edges, flat.size]).tolist()]


def _size_for_hits(image_size: tuple[int, int]) -> tuple[int, int]:
    width, height = image_size
    scale = min(1.0, _LONGEST_SIDE / max(width, height, 1))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _mask_at(result: Attribution, size: tuple[int, int]) -> NDArray[np.bool_] | None:
    """Return the mask (H, W) at a size of the picture, or None if the pair has none."""
    truth = result.pair.truth
    if truth is None or truth.mask is None:
        return None
    if truth.mask.shape == size[::-1]:
        return np.array(truth.mask)
    return np.asarray(Image.fromarray(truth.mask).resize(size, Image.Resampling.NEAREST))
