"""What a visitor of the page asks, and the limits of a question."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from PIL import Image, UnidentifiedImageError

from m2ib_lightning.errors import M2IBError, nearest, quoted
from m2ib_lightning.pairs.image_rules import ImageRules
from m2ib_lightning.pairs.images import read_image

UNITS = ("phrases", "words", "none")
"""What a question may ask for maps of: the caption's phrases, its words, or the whole caption alone."""


@dataclass(frozen=True)
class Limits:
    """The limits of a question.

    Attributes:
        megabytes: size of the largest picture, as a file; a megabyte has 2^20 bytes, as Gradio counts.
        megapixels: size of the largest picture, in millions of pixels.
        characters: length of the longest caption.
        seconds: time limit of an answer, once the model is loaded.
        waiting: number of questions that may wait for their turn.

    Raises:
        M2IBError: if a limit is not above 0.
    """

    megabytes: float = 20
    megapixels: float = 40
    characters: int = 1000
    seconds: float = 60
    waiting: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise M2IBError(f"the limit {name} must be above 0, got {value}")

    @property
    def bytes(self) -> int:
        """Size of the largest picture, as a file, in bytes."""
        return int(self.megabytes * 2**20)


@dataclass(frozen=True)
class Question:
    """What a visitor asks.

    Attributes:
        picture: content of the picture's file.
        caption: the caption.
        other: a caption to compare with, or an empty text.
        model: name of the model.
        method: name of the attribution method.
        units: one of ``UNITS``.
    """

    picture: bytes
    caption: str
    other: str = ""
    model: str = "scenes"
    method: str = "m2ib"
    units: str = "phrases"


def check_question(question: Question, limits: Limits, models: Sequence[str], methods: Sequence[str]) -> None:
    """Check all of a question but the pixels of its picture, which takes no time.

    Args:
        question: the question, as it came.
        limits: the limits.
        models: names of the models that are offered.
        methods: names of the methods that are offered.

    Raises:
        M2IBError: if something is missing, too large, or not offered.
    """
    if not question.picture:
        raise M2IBError("there is no picture: drop one on the page, or choose one of the scenes")
    if len(question.picture) > limits.bytes:
        raise M2IBError(
            f"the picture has {len(question.picture) / 2**20:.1f} MB, and the limit is {limits.megabytes:g} MB: make a "
            "smaller copy of it"
        )
    _check_caption("the caption", question.caption, limits)
    if not question.caption.strip():
        raise M2IBError("there is no caption: type what the picture may show")
    _check_caption("the other caption", question.other, limits)
    for kind, name, names in (
        ("model", question.model, models),
        ("method", question.method, methods),
        ("kind of units", question.units, UNITS),
    ):
        if name not in names:
            raise M2IBError(f"there is no {kind} {quoted(name)}: choose from {', '.join(names)}.{nearest(name, names)}")


def _check_caption(name: str, caption: str, limits: Limits) -> None:
    if len(caption) > limits.characters:
        raise M2IBError(
            f"{name} has {len(caption):,} characters, and the limit is {limits.characters:,}: models read a sentence "
            "or two, so shorten it"
        )


def read_picture(content: bytes, limits: Limits) -> Image.Image:
    """Read a picture whose size is within the limits.

    Raises:
        M2IBError: if it can't be read, or has too many pixels.
    """
    rules = ImageRules(timeout=limits.seconds, max_bytes=int(16e6 * limits.megapixels))
    try:
        with Image.open(io.BytesIO(content), formats=rules.permitted) as opened:
            width, height = opened.size
    except UnidentifiedImageError:
        width = height = 0  # perhaps a DICOM file; else the reader says which formats are read
    except Image.DecompressionBombError as error:
        raise M2IBError(f"the picture is too large: {error}. Make a smaller copy of it") from None
    if width * height > limits.megapixels * 1e6:
        raise M2IBError(
            f"the picture has {width:,} x {height:,} pixels, and the limit is {limits.megapixels:g} million: make a "
            "smaller copy of it"
        )
    return read_image(content, rules).picture


def message_html(message: str) -> str:
    """Return a message to the visitor as HTML."""
    return f'<p class="m2ib-message" role="alert">{escape(message)}</p>'
