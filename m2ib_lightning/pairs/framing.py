"""From a picture of any shape to the model's input, and which part of the picture that input shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from PIL import Image
from torch import Tensor

from m2ib_lightning.errors import M2IBError, nearest

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of a picture; it may reach beyond the picture, where the model saw a margin."""

Fit = Literal["crop", "pad", "stretch"]

_LONGEST = 16
"""Pictures longer than so many times their width are cut to this before they are resized: one of 1 x 30,000 pixels
would become 224 x 6,720,000, only for its centre to be cut out."""


class Framing:
    """How a picture is fitted into the model's input.

    ``crop`` resizes the shorter side and cuts out the centre, as CLIP does; ``pad`` resizes the longer side and fills
    the rest with the mean colour; ``stretch`` resizes both, as SigLIP does.

    Args:
        image_processor: the model's Hugging Face image processor.
        fit: None for the processor's own way.

    Raises:
        M2IBError: if there is no such way, or the processor resizes in one that is not known here.
    """

    def __init__(self, image_processor: Any, fit: str | None = None) -> None:
        if fit is not None and fit not in get_args(Fit):
            ways = ", ".join(get_args(Fit))
            raise M2IBError(f"fit must be one of {ways}, or null, got {fit!r}.{nearest(fit, get_args(Fit))}")
        self.processor = image_processor
        self.size: Mapping[str, int] = {k: v for k, v in dict(image_processor.size).items() if v is not None}
        self.cuts = bool(getattr(image_processor, "do_center_crop", False))
        if set(self.size) not in ({"shortest_edge"}, {"height", "width"}) or not image_processor.do_resize:
            raise M2IBError(
                f"{type(image_processor).__name__} has do_resize={image_processor.do_resize} and size={self.size}: "
                "pictures must be resized by 'shortest_edge', or to 'height' and 'width'"
            )
        short = "shortest_edge" in self.size
        own = "crop" if short and self.cuts else "stretch" if not short and not self.cuts else None
        self.fit = None if fit == own else fit
        if self.fit is None and short and not self.cuts:
            self.fit = "crop"  # its own way leaves the long side as it comes, and no model reads that

    @property
    def input_size(self) -> tuple[int, int]:
        """(width, height) of the model's input, in pixels."""
        final: Mapping[str, int] = self.processor.crop_size if self.cuts else self.size
        if "shortest_edge" in final:
            return final["shortest_edge"], final["shortest_edge"]
        return final["width"], final["height"]

    def __call__(self, picture: Image.Image) -> tuple[Tensor, Box]:
        """The model's input (3, H, W), and the part of the picture (RGB) that it shows."""
        if self.fit is None:
            strip = self._strip(*picture.size)
            left, top, right, bottom = strip
            shown, seen = picture.crop(strip), self._own_box(right - left, bottom - top)
            return self._process(shown), (seen[0] + left, seen[1] + top, seen[2] + left, seen[3] + top)
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

    def _strip(self, width: int, height: int) -> Box:
        """The middle of a picture that is far longer than wide; else all of it."""
        short, long = sorted((width, height))
        if not self.cuts or "shortest_edge" not in self.size or long <= _LONGEST * short:
            return (0, 0, width, height)
        start = (long - _LONGEST * short) // 2
        end = start + _LONGEST * short
        return (0, start, width, end) if height > width else (start, 0, end, height)

    def _own_box(self, width: int, height: int) -> Box:
        """What the processor's own way shows of a picture of that size."""
        if not self.cuts:
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
        """The whole picture on a canvas of the mean colour, which the model sees as zero."""
        width, height = self.input_size
        scale = min(width / picture.width, height / picture.height)
        inner = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        colour = tuple(round(255 * mean) for mean in self.processor.image_mean)
        canvas = Image.new("RGB", (width, height), colour)
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        canvas.paste(picture.resize(inner, self.processor.resample), (left, top))
        across, down = picture.width / inner[0], picture.height / inner[1]
        box = (-left * across, -top * down, (width - left) * across, (height - top) * down)
        return canvas, (round(box[0]), round(box[1]), round(box[2]), round(box[3]))


def _centre(scaled: int, crop: int, original: int) -> tuple[int, int]:
    """The centre crop along one axis, from scaled to original pixels; at least one pixel."""
    start = (scaled - crop) // 2
    low = round(start * original / scaled)
    return low, max(round((start + crop) * original / scaled), low + 1)


def _largest_centre(size: tuple[int, int], shape: tuple[int, int]) -> Box:
    """The largest box of that shape in the middle of a picture."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    width, height = max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return (left, top, left + width, top + height)
