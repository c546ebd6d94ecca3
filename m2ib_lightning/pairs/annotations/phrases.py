"""The mark-up of Flickr30k Entities: the phrases of a sentence, and the boxes of their entities."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

from m2ib_lightning.errors import PairError, quoted
from m2ib_lightning.pairs.annotations.coordinates import Size, checked_box, checked_size

NOT_VISUAL = "0"
"""The entity of phrases that name nothing in a picture."""

_OPENING = re.compile(r"\[/EN#(\d+)((?:/[\w-]+)+) ([^\[\]]*[^\[\]\s][^\[\]]*)\]")
_TAGS = (b"<!DOCTYPE", b"<!ENTITY")


@dataclass(frozen=True)
class Phrase:
    """A phrase of a sentence.

    Attributes:
        text: words of the phrase.
        entity: id of the entity that it names.
        types: types of the entity, such as ``people``.
    """

    text: str
    entity: str
    types: tuple[str, ...]


def parse_sentence(line: str) -> tuple[str, list[Phrase]]:
    """Return a sentence without its mark-up, and its phrases.

    Raises:
        PairError: if the brackets do not match, or a bracket does not start with ``/EN#<id>/<type>``.

    >>> parse_sentence("[/EN#7/people A man 's dog] runs .")
    ("A man 's dog runs .", [Phrase(text="A man 's dog", entity='7', types=('people',))])
    """
    phrases, plain, position = [], [], 0
    for match in _OPENING.finditer(line):
        plain += [line[position : match.start()], match.group(3)]
        phrases.append(Phrase(match.group(3).strip(), match.group(1), tuple(match.group(2)[1:].split("/"))))
        position = match.end()
    plain.append(line[position:])
    for part in plain[::2]:
        if (at := re.search(r"[\[\]]", part)) is not None:
            raise PairError(
                f"the mark-up is broken at {quoted(part[at.start() :], 40)}: a phrase must be [/EN#<id>/<type> words]"
            )
    return " ".join("".join(plain).split()), phrases


@dataclass
class Entities:
    """The entities of a picture.

    Attributes:
        size: (width, height) of the picture; None if the file does not state it.
        boxes: boxes (left, top, width, height) of each entity that has some.
        boxless: entities that are the whole scene, or not in the picture.
    """

    size: Size | None = None
    boxes: dict[str, list[list[float]]] = field(default_factory=dict)
    boxless: set[str] = field(default_factory=set)


def read_entities(file: Path) -> Entities:
    """Read the entities of a picture from its XML file.

    The corners of a box count from 1 and belong to the box, as in Pascal VOC.

    Raises:
        PairError: if the file can't be read, or a box is broken.
    """
    try:
        content = file.read_bytes()
        if any(tag in content for tag in _TAGS):
            raise PairError(f"{file.name} defines entities of XML, which annotations never do")
        root = ElementTree.fromstring(content)
    except FileNotFoundError:
        raise PairError(f"there is no file Annotations/{file.name}") from None
    except OSError as error:
        raise PairError(f"{file.name} could not be read: {error.strerror}") from None
    except (ElementTree.ParseError, ValueError) as error:
        raise PairError(f"{file.name} is not XML: {error}") from None
    entities = Entities()
    if (size := root.find("size")) is not None:
        entities.size = checked_size(size.findtext("width"), size.findtext("height"))
    for number, found in enumerate(root.iter("object"), 1):
        names = [(name.text or "").strip() for name in found.findall("name")]
        box = found.find("bndbox")
        if box is None:
            entities.boxless.update(names)
            continue
        try:
            corners = [float(box.findtext(name) or "") for name in ("xmin", "ymin", "xmax", "ymax")]
            sides = [corners[2] - corners[0] + 1, corners[3] - corners[1] + 1]
            checked = checked_box([corners[0] - 1, corners[1] - 1, *sides], entities.size)
        except ValueError:
            raise PairError(f"object {number} of {file.name} has a box without four numbers") from None
        except PairError as error:
            raise PairError(f"object {number} of {file.name}: {error}") from None
        for name in names:
            entities.boxes.setdefault(name, []).append(checked)
    return entities
