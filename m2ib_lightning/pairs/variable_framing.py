"""Pictures of models with a variable grid (SigLIP 2 NaFlex): the whole picture, in its own proportions.

Legend: h x w patches of p x p pixels.
"""

from __future__ import annotations

import math
from typing import Any

from PIL import Image
from torch import Tensor

from m2ib_lightning.errors import M2IBError
from m2ib_lightning.pairs.framing import Box, Framing


class VariableFraming:
    """Resizes a picture to the grid of patches that its proportions allow, with at most ``max_num_patches``.

    It takes the place of a ``Framing``. The inputs of two pictures may differ in size.

    Args:
        image_processor: Hugging Face image processor that makes patches.
        fit: None; there is nothing to crop, pad or stretch.

    Raises:
        M2IBError: if ``fit`` is given.
    """

    def __init__(self, image_processor: Any, fit: str | None = None) -> None:
        if fit is not None:
            raise M2IBError(f"this model reads whole pictures in their own proportions: fit must be null, got {fit!r}")
        self.processor = image_processor

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of a square picture's input, in pixels."""
        side = math.isqrt(self.processor.max_num_patches) * self.processor.patch_size
        return side, side

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Box]:
        """Return the model's input (3, h p, w p) for an RGB picture, and the box of the picture that it shows."""
        output = self.processor(images=[picture], return_tensors="pt")
        rows, columns = output["spatial_shapes"][0].tolist()
        side: int = self.processor.patch_size
        patches: Tensor = output["pixel_values"][0][: rows * columns]  # (h w, p p 3)
        cells = patches.unflatten(1, (side, side, -1)).unflatten(0, (rows, columns))  # (h, w, p, p, 3)
        pixels = cells.permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)
        return pixels.contiguous(), (0, 0, *picture.size)


def make_framing(image_processor: Any, fit: str | None = None) -> Framing | VariableFraming:
    """Return the framing of an image processor: by a fixed size, or by a number of patches.

    Raises:
        M2IBError: if ``fit`` is unknown or does not go with the processor, or its way of resizing is not supported.
    """
    is_variable = getattr(image_processor, "max_num_patches", None) is not None
    return VariableFraming(image_processor, fit) if is_variable else Framing(image_processor, fit)
