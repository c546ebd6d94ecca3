"""Fonts for every script: DejaVu Sans first, then what fontconfig knows of; neither is required."""

from __future__ import annotations

import bisect
import subprocess
import threading
import unicodedata
import warnings
from dataclasses import dataclass
from functools import cache

from PIL import Image, ImageFont

_NAMES = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "Arial.ttf")
"""Files of the first font to try, by preference."""

_LIST = r"%{file}\t%{index}\t%{family[0]}\t%{slant}\t%{weight}\t%{color}\t%{charset}\n"
_SECONDS = 20.0
_UPRIGHT, _REGULAR = 0, 80  # fontconfig's numbers
_BITMAP_SIZE = 109
"""The only size of colour fonts that hold bitmaps; their pictures are scaled to the size of the text."""

_RARE = ("Mono", "UI", "Condensed", "Serif", "Nastaliq", "Looped", "Display", "Rashi")
_REGIONS = {"hiragana": "JP", "katakana": "JP", "hangul": "KR", "bopomofo": "TC"}

Loaded = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Face:
    """A font file, and the number of the font in it.

    Attributes:
        file: path or name of the file; None for the font in Pillow.
        index: number of the font in its file.
        family: name of its family; empty if unknown.
        is_colour: whether its glyphs have colours of their own.
    """

    file: str | None
    index: int = 0
    family: str = ""
    is_colour: bool = False


@dataclass(frozen=True)
class _Installed:
    """A face that fontconfig found, and the first and last characters of the ranges that it has."""

    face: Face
    rank: tuple[bool, bool, bool, int, str]
    first: tuple[int, ...]
    last: tuple[int, ...]

    def has(self, code: int) -> bool:
        place = bisect.bisect_right(self.first, code) - 1
        return place >= 0 and code <= self.last[place]


_loaded = threading.local()  # a face of FreeType must not be used by two threads at once


def load(face: Face, size: int) -> Loaded:
    """Return a face at a size in pixels, for use in this thread.

    Raises:
        OSError: if the face has no such size, as colour fonts that hold bitmaps.
    """
    fonts = _loaded.__dict__.setdefault("fonts", {})
    if (face, size) not in fonts:
        fonts[face, size] = (
            ImageFont.load_default(size) if face.file is None else ImageFont.truetype(face.file, size, face.index)
        )
    font: Loaded = fonts[face, size]
    return font


@cache
def default_face() -> Face:
    """Return the face for all characters that it has: DejaVu Sans, another common one, or the font in Pillow."""
    for name in _NAMES:
        try:
            path = getattr(ImageFont.truetype(name, 20), "path", name)
        except OSError:
            continue
        return Face(str(path), family="DejaVu Sans" if name == _NAMES[0] else "")
    return Face(None)


@cache
def face_of(character: str, region: str = "SC", colour: bool = False) -> Face | None:
    """Return the face to draw a character with, or None if no font has it, which is warned of once a script.

    Args:
        character: one character.
        region: region whose forms of Chinese characters are preferred: SC, TC, JP or KR.
        colour: whether a colour font is preferred, as for emoji.
    """
    default = default_face()
    if not colour and _draws(default, character):
        return default
    having = [entry for entry in _installed() if entry.has(ord(character))]
    if colour or not having:
        chosen = next((entry.face for entry in having if entry.face.is_colour), None)
        if chosen is not None:
            return chosen
        if _draws(default, character):
            return default
    plain = [entry for entry in having if not entry.face.is_colour] or having
    if plain:
        return min(plain, key=lambda entry: (not entry.face.family.endswith(f" {region}"), entry.rank)).face
    _warn_once(_script(character) if character.isalpha() else "signs", character)
    return None


def region_of(text: str) -> str:
    """Return the region whose forms of Chinese characters suit a text.

    >>> region_of("猫が眠る"), region_of("고양이"), region_of("一只猫")
    ('JP', 'KR', 'SC')
    """
    scripts = {_script(character) for character in text if ord(character) > 0x2E7F}
    return next((region for script, region in _REGIONS.items() if script in scripts), "SC")


def bitmap_scale(face: Face, size: int) -> float:
    """Return the factor from the bitmaps of a colour font to a size; 1 for fonts that have every size."""
    try:
        load(face, size)
    except OSError:
        return size / _BITMAP_SIZE
    return 1.0


def load_scaled(face: Face, size: int) -> tuple[Loaded, float]:
    """Return a face at a size, or at the size of its bitmaps, and the factor to the size that is wanted."""
    scale = bitmap_scale(face, size)
    return load(face, size if scale == 1.0 else _BITMAP_SIZE), scale


@cache
def _draws(face: Face, character: str) -> bool:
    """Whether a face has a glyph of its own for a character: not the one for characters that do not exist."""
    if character.isspace() or unicodedata.category(character) in ("Cf", "Mn", "Me"):
        return True
    font = load(face, 32)
    try:
        return _glyph(font, character) != _glyph(font, "\U0010fffe")
    except (OSError, UnicodeError):
        return False


def _glyph(font: Loaded, character: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(character)
    picture = Image.new("L", mask.size)
    picture.im.paste(mask, (0, 0, *mask.size))
    return mask.size, picture.tobytes()


@cache
def _installed() -> tuple[_Installed, ...]:
    """The faces that fontconfig lists; none if it is not installed. It runs once, when the first font lacks a glyph."""
    try:
        listed = subprocess.run(["fc-list", "--format", _LIST], capture_output=True, timeout=_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    lines = listed.stdout.decode("utf-8", "replace").splitlines()
    entries = (_parse(line.split("\t")) for line in lines)
    return tuple(sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.rank))


def _parse(fields: list[str]) -> _Installed | None:
    try:
        file, index, family, slant, weight, colour, charset = fields
        ranges = [part.split("-") for part in charset.split()]
        first, last = ([int(ends[end], 16) for ends in ranges] for end in (0, -1))
        number = int(index) & 0xFFFF
        rank = (
            int(float(slant)) != _UPRIGHT,
            any(word in family.split() for word in _RARE),
            not family.startswith("Noto"),
            abs(int(float(weight)) - _REGULAR),
            f"{family} {file}",
        )
    except ValueError:  # a face without a number, or of a variable font, which is listed with each of its styles too
        return None
    if not file.lower().endswith((".ttf", ".otf", ".ttc", ".otc")):
        return None
    return _Installed(Face(file, number, family, colour == "True"), rank, tuple(first), tuple(last))


def _script(character: str) -> str:
    return unicodedata.name(character, "unnamed").split()[0].lower()


_warned: set[str] = set()


def _warn_once(script: str, character: str) -> None:
    if script not in _warned:
        _warned.add(script)
        warnings.warn(
            f"no installed font has U+{ord(character):04X} ({unicodedata.name(character, 'unnamed').lower()}), so "
            "pictures show a box instead: install a font for it (Debian: fonts-noto-core, fonts-noto-cjk, "
            "fonts-noto-color-emoji) and fontconfig; HTML and SVG use the fonts of the viewer",
            stacklevel=2,
        )
