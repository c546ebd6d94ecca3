"""Fit a picture of any shape to the model's input, and report the part of the picture that the input shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from PIL import Image
from torch import Tensor

from m2ib_lightning.errors import M2IBError, nearest

Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of a picture. A box reaches beyond the picture where the model saw a margin."""

Fit = Literal["crop", "pad", "stretch"]

_MAX_ASPECT_RATIO = 16
"""Largest ratio of the long to the short side that is resized. The ends of a longer picture are cut off first.

A picture of 1 x 30,000 pixels would otherwise become 224 x 6,720,000, although only its centre is used."""


class Framing:
    """The way a picture is fitted to the model's input.

    ``crop`` resizes the shorter side and crops the centre, as CLIP does. ``pad`` resizes the longer side and fills the
    rest with the mean colour. ``stretch`` resizes both sides, as SigLIP does.

    Args:
        image_processor: Hugging Face image processor of the model.
        fit: ``crop``, ``pad`` or ``stretch``; None for the processor's default.

    Raises:
        M2IBError: if ``fit`` is unknown, or the processor's way of resizing is not supported.
    """

    def __init__(self, image_processor: Any, fit: str | None = None) -> None:
        if fit is not None and fit not in get_args(Fit):
            ways = ", ".join(get_args(Fit))
            raise M2IBError(f"fit must be one of {ways}, or null, got {fit!r}.{nearest(fit, get_args(Fit))}")
        self.processor = image_processor
        self.size: Mapping[str, int] = {k: v for k, v in dict(image_processor.size).items() if v is not None}
        self.crops = bool(getattr(image_processor, "do_center_crop", False))
        if set(self.size) not in ({"shortest_edge"}, {"height", "width"}) or not image_processor.do_resize:
            raise M2IBError(
                f"{type(image_processor).__name__} has do_resize={image_processor.do_resize} and size={self.size}: "
                "pictures must be resized by 'shortest_edge', or to 'height' and 'width'"
            )
        by_edge = "shortest_edge" in self.size
        default = "crop" if by_edge and self.crops else "stretch" if not by_edge and not self.crops else None
        self.fit = None if fit == default else fit
        if self.fit is None and by_edge and not self.crops:
            self.fit = "crop"  # without a crop, the long side would keep any length, which no model reads

    @property
    def input_size(self) -> tuple[int, int]:
        """Width and height of the model's input, in pixels."""
        final: Mapping[str, int] = self.processor.crop_size if self.crops else self.size
        if "shortest_edge" in final:
            return final["shortest_edge"], final["shortest_edge"]
        return final["width"], final["height"]

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Box]:
        """Return the model's input (3, H, W) for an RGB picture, and the box of the picture that it shows."""
        if self.fit is None:
            middle = self._middle(*picture.size)
            left, top, right, bottom = middle
            box = self._default_box(right - left, bottom - top)
            return self._process(picture.crop(middle)), (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        shown, box = picture, (0, 0, *picture.size)
        if self.fit == "crop":
            box = _largest_centre(picture.size, self.input_size)
            shown = picture.crop(box)
        elif self.fit == "pad":
            shown, box = self._padded(picture)
        width, height = self.input_size
        return self._process(shown, size={"height": height, "width": width}, do_center_crop=False), box

    def _process(self, picture: Image.Image, **options: Any) -> Tensor:
        pixels: Tensor = self.processor(images=[picture], return_tensors="pt", **options)["pixel_values"][0]
        return pixels

    def _middle(self, width: int, height: int) -> Box:
        """The box of the middle part of a picture that is too long on one side; the whole box of any other picture."""
        short, long = sorted((width, height))
        if not self.crops or "shortest_edge" not in self.size or long <= _MAX_ASPECT_RATIO * short:
            return (0, 0, width, height)
        start = (long - _MAX_ASPECT_RATIO * short) // 2
        end = start + _MAX_ASPECT_RATIO * short
        return (0, start, width, end) if height > width else (start, 0, end, height)

    def _default_box(self, width: int, height: int) -> Box:
        """The box that the processor's default shows of a picture of this size."""
        if not self.crops:
            return (0, 0, width, height)
        if "shortest_edge" in self.size:
            edge, short = self.size["shortest_edge"], min(width, height)
            scaled_width = edge if width <= height else int(edge * width / short)
            scaled_height = edge if height <= width else int(edge * height / short)
        else:
            scaled_width, scaled_height = self.size["width"], self.size["height"]
        crop_width, crop_height = self.input_size
        left, right = _centre(scaled_width, crop_width, width)
        top, bottom = _centre(scaled_height, crop_height, height)
        return (left, top, right, bottom)

    def _padded(self, picture: Image.Image) -> tuple[Image.Image, Box]:
        """The picture on a canvas of the mean colour, which normalises to zero."""
        width, height = self.input_size
        scale = min(width / picture.width, height / picture.height)
        inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        colour = tuple(round(255 * mean) for mean in self.processor.image_mean)
        canvas = Image.new("RGB", (width, height), colour)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas.paste(picture.resize(inner, self.processor.resample), (left, top))
        x_scale, y_scale = picture.width / inner[0], picture.height / inner[1]
        box = (-left * x_scale, -top * y_scale, (width - left) * x_scale, (height - top) * y_scale)
        return canvas, (round(box[0]), round(box[1]), round(box[2]), round(box[3]))


def _centre(scaled: int, crop: int, original: int) -> tuple[int, int]:
    """Start and end of the centre crop along one axis, in original pixels; at least one pixel."""
    start = (scaled - crop) // 2
    low = round(start * original / scaled)
    return low, max(round((start + crop) * original / scaled), low + 1)


def _largest_centre(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The largest centred box with the proportions of ``shape`` in a picture of ``size``."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    width, height = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return (left, top, left + width, top + height)
