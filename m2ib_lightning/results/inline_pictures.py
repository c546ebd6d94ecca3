"""Pictures inside a page: as data URIs, in full or as thumbnails of a bounded size."""

from __future__ import annotations

import base64
import io

from PIL import Image, features

from m2ib_lightning.results.drawing import fitted

_SIZES = (1.0, 0.75, 0.5, 0.35, 0.25)
_QUALITIES = (80, 50)
_PIXELS = 20
"""Largest number of pixels for each character of a thumbnail: with more, its quality would be too low to try."""


def inline_picture(image: Image.Image) -> str:
    """Return a picture as a data URI."""
    return _uri(image, "PNG")


def inline_thumbnail(image: Image.Image, most: int) -> str:
    """Return a picture as a data URI of at most ``most`` characters: WebP, or JPEG where Pillow has no WebP.

    Its quality is lowered and its size reduced, to a quarter at least, until it fits. If it does not fit then, the
    smallest is returned.
    """
    kind = "WEBP" if features.check("webp") else "JPEG"
    picture = image.convert("RGB")
    uri = ""
    for scale in _SIZES:
        size = fitted(picture.size, max(1, round(max(picture.size) * scale)))
        if size[0] * size[1] > _PIXELS * most and scale > _SIZES[-1]:
            continue
        reduced = picture if scale == 1 else picture.resize(size, Image.Resampling.BICUBIC)
        for quality in _QUALITIES:
            uri = _uri(reduced, kind, quality=quality)
            if len(uri) <= most:
                return uri
    return uri


def _uri(image: Image.Image, kind: str, **options: int) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
