"""A figure: pictures, boxes and texts at places in pixels. It is laid out once, and written as pixels or vectors."""

from __future__ import annotations

from dataclasses import dataclass, field

from PIL import Image, ImageDraw

from m2ib_lightning.results.figures.shaped_text import Colour, Direction, ascent_of, draw_text, length_of

INK: Colour = (32, 32, 36)
FAINT: Colour = (110, 110, 118)


@dataclass(frozen=True)
class PictureItem:
    """A picture with its left and top edge."""

    picture: Image.Image
    left: float
    top: float


@dataclass(frozen=True)
class BoxItem:
    """A box filled with a colour."""

    left: float
    top: float
    right: float
    bottom: float
    fill: Colour


@dataclass(frozen=True)
class TextItem:
    """A text of one direction, with its left end, its baseline and its width."""

    text: str
    left: float
    baseline: float
    width: float
    size: int
    ink: Colour = INK
    direction: Direction = "ltr"


@dataclass
class Figure:
    """Pictures, boxes and texts, drawn in this order.

    Attributes:
        width: width in pixels.
        height: height in pixels.
        title: what the figure shows, for readers who cannot see it.
    """

    width: float = 0.0
    height: float = 0.0
    title: str = ""
    pictures: list[PictureItem] = field(default_factory=list)
    boxes: list[BoxItem] = field(default_factory=list)
    texts: list[TextItem] = field(default_factory=list)

    def add_picture(self, picture: Image.Image, left: float, top: float) -> None:
        """Add a picture in RGB."""
        self.pictures.append(PictureItem(picture, left, top))
        self._reach(left + picture.width, top + picture.height)

    def add_box(self, left: float, top: float, right: float, bottom: float, fill: Colour) -> None:
        """Add a filled box."""
        self.boxes.append(BoxItem(left, top, right, bottom, fill))
        self._reach(right, bottom)

    def add_text(
        self,
        text: str,
        left: float,
        top: float,
        size: int,
        ink: Colour = INK,
        width: float | None = None,
        direction: Direction = "ltr",
    ) -> float:
        """Add a text whose line begins at ``top``; return its right end."""
        width = length_of(text, size) if width is None else width
        self.texts.append(TextItem(text, left, top + ascent_of(size), width, size, ink, direction))
        self._reach(left + width, top + line_height(size))
        return left + width

    def add_figure(self, other: Figure, left: float, top: float) -> None:
        """Add what another figure has, at a place."""
        self.pictures += [PictureItem(it.picture, it.left + left, it.top + top) for it in other.pictures]
        self.boxes += [
            BoxItem(it.left + left, it.top + top, it.right + left, it.bottom + top, it.fill) for it in other.boxes
        ]
        self.texts += [
            TextItem(it.text, it.left + left, it.baseline + top, it.width, it.size, it.ink, it.direction)
            for it in other.texts
        ]
        self._reach(left + other.width, top + other.height)

    def with_margin(self, margin: float) -> Figure:
        """Return the figure with a margin on all sides."""
        framed = Figure(title=self.title)
        framed.add_figure(self, margin, margin)
        framed._reach(self.width + 2 * margin, self.height + 2 * margin)
        return framed

    def _reach(self, right: float, bottom: float) -> None:
        self.width, self.height = max(self.width, right), max(self.height, bottom)


def line_height(size: int) -> int:
    """Return the distance between lines of a size."""
    return round(1.45 * size)


def rasterise(figure: Figure) -> Image.Image:
    """Return a figure as pixels, in RGB on white."""
    canvas = Image.new("RGB", (max(1, round(figure.width)), max(1, round(figure.height))), "white")
    for item in figure.pictures:
        canvas.paste(item.picture, (round(item.left), round(item.top)))
    draw = ImageDraw.Draw(canvas)
    for box in figure.boxes:
        right, bottom = max(box.right - 1, box.left), max(box.bottom - 1, box.top)
        draw.rectangle((round(box.left), round(box.top), round(right), round(bottom)), fill=box.fill)
    for text in figure.texts:
        draw_text(canvas, text.left, text.baseline, text.text, text.size, text.ink, text.direction)
    return canvas
