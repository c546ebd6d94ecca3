"""How the units of a caption are found, and what each of them is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from m2ib_lightning.errors import M2IBError, nearest
from m2ib_lightning.pairs.units.noun_chunks import PREFIX, load_pipeline, noun_chunks
from m2ib_lightning.pairs.units.phrase_rule import phrases, words
from m2ib_lightning.pairs.units.unit import Unit, checked_spans, has_words, without

UnitTarget = Literal["difference", "alone", "contrast"]
"""What the picture is compared with for a unit (``UnitRule``)."""


@dataclass(frozen=True)
class UnitRule:
    """How the units of a caption are found, and the target of each.

    Attributes:
        units: ``phrases``, ``words``, or ``spacy:PIPELINE`` for the noun chunks that a spaCy pipeline finds.
        target: ``difference`` for e(caption) - e(caption without the unit), ``alone`` for e(unit), ``contrast`` for
            e(unit) - e(against), each normalised; e are normalised embeddings of the text tower.
        against: the other text of ``contrast``; None for the other targets.

    Raises:
        M2IBError: if a value is unknown, or ``target`` and ``against`` do not go together.
    """

    units: str = "phrases"
    target: UnitTarget = "difference"
    against: str | None = None

    def __post_init__(self) -> None:
        if self.units not in ("phrases", "words") and not self.units.startswith(PREFIX):
            raise M2IBError(
                f"units must be 'phrases', 'words', or 'spacy:PIPELINE' such as 'spacy:en_core_web_sm', got "
                f"{self.units!r}.{nearest(self.units, ('phrases', 'words'))}"
            )
        if self.target not in get_args(UnitTarget):
            raise M2IBError(
                f"target must be {', '.join(get_args(UnitTarget))}, got {self.target!r}."
                f"{nearest(self.target, get_args(UnitTarget))}"
            )
        if (self.target == "contrast") != (self.against is not None):
            raise M2IBError(
                f"target={self.target} and against={self.against!r} do not go together: target=contrast needs "
                "against=TEXT, and compares the picture with e(unit) - e(against); the other targets take none"
            )
        if self.against is not None and not has_words(self.against):
            raise M2IBError(f"against must be a text with words, got {self.against!r}")
        if self.units.startswith(PREFIX):
            load_pipeline(self.units.removeprefix(PREFIX))  # fail early

    def find(self, caption: str, spans: Sequence[Any] | None = None) -> list[Unit]:
        """Return the units of a caption, in its order.

        A unit of the rule that is the whole caption is left out: its map is the caption's.

        Args:
            caption: the caption.
            spans: (start, end) of the user's units, in characters; None for those of the rule.

        Raises:
            PairError: if the spans are wrong (``checked_spans``), or spaCy's pipeline has no parser.
        """
        if spans is not None:
            return checked_spans(caption, spans)
        if self.units.startswith(PREFIX):
            found = noun_chunks(caption, load_pipeline(self.units.removeprefix(PREFIX)))
        else:
            found = phrases(caption) if self.units == "phrases" else words(caption)
        return [unit for unit in found if has_words(without(caption, unit))]

    def other_text(self, caption: str, unit: Unit) -> str:
        """Return the text that a unit's target is made of besides the caption, or besides ``against``."""
        return without(caption, unit) if self.target == "difference" else unit.text
