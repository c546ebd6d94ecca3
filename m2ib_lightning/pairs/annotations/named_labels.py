"""Find the labels that a caption names: as a word, or as its simple plural."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

_PLURALS = {"person": "people", "mouse": "mice", "child": "children", "man": "men", "woman": "women", "foot": "feet"}
"""Plurals that no rule gives, by the last word of the label."""

_ES = ("s", "x", "z", "ch", "sh")
_VOWELS = "aeiou"


class LabelFinder:
    """Finds labels in captions.

    A longer label comes first: in "a hot dog" the label "hot dog" is named, and "dog" is not. Capitals do not matter,
    and "_" or "-" in a label are spaces.

    Args:
        labels: the labels.

    >>> LabelFinder(["dog", "hot dog", "person"]).find("Two people eat hot dogs")
    {'person': [(4, 10)], 'hot dog': [(15, 23)]}
    """

    def __init__(self, labels: Iterable[str]) -> None:
        self._forms: dict[str, list[str]] = {}
        for label in sorted(set(labels)):
            for form in forms_of(label):
                self._forms.setdefault(form, []).append(label)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        forms = sorted(self._forms, key=lambda form: (-len(form), form))
        return re.compile(r"\b(?:" + "|".join(map(re.escape, forms)) + r")\b" if forms else r"(?!)", re.IGNORECASE)

    def find(self, caption: str) -> dict[str, list[tuple[int, int]]]:
        """Return the labels that a caption names, each with its spans of characters."""
        spans: dict[str, list[tuple[int, int]]] = {}
        for match in self._pattern.finditer(caption):
            for label in self._forms.get(match.group().lower(), ()):
                spans.setdefault(label, []).append(match.span())
        return spans


def forms_of(label: str) -> list[str]:
    """Return the ways in which a caption can write a label: the label and its plural, in lower case.

    >>> forms_of("Wine_glass"), forms_of("person"), forms_of("teddy bear")
    (['wine glass', 'wine glasses'], ['person', 'persons', 'people'], ['teddy bear', 'teddy bears'])
    """
    singular = re.sub(r"[\s_-]+", " ", label).strip().lower()
    if not singular:
        return []
    *before, last = singular.split(" ")
    plurals = [_plural(last), *([_PLURALS[last]] if last in _PLURALS else [])]
    return [singular, *(" ".join([*before, plural]) for plural in plurals)]


def _plural(word: str) -> str:
    if word.endswith(_ES):
        return f"{word}es"
    if word.endswith("y") and word[-2:-1] not in ("", *_VOWELS):
        return f"{word[:-1]}ies"
    if word.endswith("fe"):
        return f"{word[:-2]}ves"
    return f"{word}s"
