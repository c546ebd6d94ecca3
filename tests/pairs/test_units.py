"""Units of a caption: the rules that find them, the user's spans, and the caption without one."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from m2ib_lightning.errors import M2IBError, PairError
from m2ib_lightning.pairs.units.noun_chunks import load_pipeline
from m2ib_lightning.pairs.units.phrase_rule import phrases, words
from m2ib_lightning.pairs.units.unit import Unit, checked_spans, without
from m2ib_lightning.pairs.units.unit_rule import UnitRule


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a small red circle and a blue star", ["small red circle", "blue star"]),
        ("There is no pneumothorax, and the left lung is clear.", ["pneumothorax", "lung", "clear"]),
        ("A child's toy-car,near a 12.5 cm mass.It grew", ["child's toy-car", "12.5 cm mass", "grew"]),
        ("café\u00a0crème on the table", ["café\u00a0crème", "table"]),
        ("and the", []),
        ("a picture of a red star somewhere", ["red star"]),
        ("12 red cars", ["12 red cars"]),
        ("Ein Hund, eine Katze", ["Ein Hund", "eine Katze"]),
        ("一只狗", ["一只狗"]),
    ],
)
def test_phrases_are_content_words_between_function_words(caption: str, expected: list[str]) -> None:
    units = phrases(caption)
    assert [unit.text for unit in units] == expected
    assert all(caption[unit.start : unit.end] == unit.text for unit in units)
    assert [unit.text for unit in words(caption)] == [word for phrase in expected for word in phrase.split()]


@pytest.mark.parametrize(
    ("caption", "unit", "rest"),
    [
        ("a red circle and a star", "red circle", "a and a star"),
        ("red circle and a star", "red circle", "and a star"),
        ("a star and a red circle", "red circle", "a star and a"),
        ("a star, red circle.", "red circle", "a star, ."),
        ("toy-car", "toy", "-car"),
        ("a  red\tcircle   here", "red\tcircle", "a here"),
    ],
)
def test_a_caption_without_a_unit_has_single_spaces(caption: str, unit: str, rest: str) -> None:
    start = caption.index(unit)
    assert without(caption, Unit.of(caption, start, start + len(unit))) == rest


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([], "at least one unit"),
        ([(2, 2)], "is empty"),
        ([(5, 3)], "is outside the caption"),
        ([(-1, 3)], "is outside the caption"),
        ([(2, 99)], "is outside the caption, which has the characters 0 to 23"),
        ([(2, 8), (5, 12)], r"the units 'red ci' \(2, 8\) and 'circle ' \(5, 12\)|overlap"),
        ([(2, 12), (2, 12)], "overlap"),
        ([(0, 23)], "is the whole caption: nothing is left to compare"),
        ([(1, 2)], "has no word"),
        ([(2.5, 8)], "two indices of characters"),
        ([(2, True)], "two indices of characters"),
        ([5], "two indices of characters"),
        ([("a", "b")], "two indices of characters"),
        ([(1, 2, 3)], "two indices of characters"),
    ],
)
def test_spans_that_are_not_units_are_refused(spans: list[Any], message: str) -> None:
    with pytest.raises(PairError, match=message):
        checked_spans("a red circle and a star", spans)


def test_spans_keep_their_order_and_may_touch() -> None:
    units = checked_spans("a red circle and a star", [(6, 12), (2, 6)])
    assert [unit.text for unit in units] == ["circle", "red "]


def test_a_rule_leaves_out_a_unit_that_is_the_whole_caption() -> None:
    assert UnitRule().find("pneumonia") == []
    assert [unit.text for unit in UnitRule().find("a pneumonia")] == ["pneumonia"]
    assert UnitRule("words").find("pneumonia!") == []


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"units": "phrase"}, "units must be 'phrases', 'words'.*'phrase'.*Did you mean 'phrases'"),
        ({"target": "contrasts"}, "target must be difference, alone, contrast"),
        ({"target": "contrast"}, "target=contrast needs against=TEXT"),
        ({"against": "a healthy lung"}, "do not go together"),
        ({"target": "contrast", "against": " , "}, "against must be a text with words"),
    ],
)
def test_a_rule_that_does_not_exist_says_what_does(values: dict[str, Any], message: str) -> None:
    with pytest.raises(M2IBError, match=message):
        UnitRule(**values)


@dataclass
class Word:
    """A token as spaCy has it."""

    text: str
    idx: int
    pos_: str


class Parsed:
    """A document as spaCy returns it, with two noun chunks and one that is a pronoun."""

    def __init__(self, caption: str) -> None:
        tags = {"a": "DET", "the": "DET", "it": "PRON"}
        starts = [caption.index(word) for word in ("the dog", "it", "red ball")]
        self.noun_chunks = [
            [Word(word, caption.index(word, start), tags.get(word, "NOUN")) for word in caption[start:].split()[:count]]
            for start, count in zip(starts, (2, 1, 2), strict=True)
        ]


def test_noun_chunks_come_from_the_pipeline_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spacy: Any = ModuleType("spacy")
    spacy.load = lambda name: {"mine": Parsed}[name]
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    load_pipeline.cache_clear()
    units = UnitRule("spacy:mine").find("the dog and it saw red ball")
    assert [(unit.text, unit.start) for unit in units] == [("dog", 4), ("red ball", 19)]
    load_pipeline.cache_clear()


def test_without_spacy_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    load_pipeline.cache_clear()
    with pytest.raises(M2IBError, match=r"need spaCy.*m2ib_lightning\[phrases\].*units=phrases needs neither"):
        UnitRule("spacy:en_core_web_sm")
