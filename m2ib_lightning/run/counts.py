"""Counts over the rows of a table. Each part stores the counts of its rows; the counts of parts are added."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from m2ib_lightning.pairs.pair import Pair
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.marked_part import LEAST_CUT

MEANS = ("similarity", "image_similarity", "text_similarity", "image_information", "text_information")
"""Columns whose means are in ``summary.json``."""


@dataclass(frozen=True)
class Counts:
    """Counts over rows of the table; ``+`` adds two of them.

    Attributes:
        done: number of pairs that were explained.
        failed: number of pairs that could not be explained.
        truncated: number of captions that are longer than the model reads.
        unknown: number of captions with a token that the model's vocabulary does not know.
        wholly_unknown: number of captions without a known token.
        unread: number of captions with a token that the text tower never reads.
        animated: number of images with several frames, of which the first was read.
        drawn: number of pairs with a heatmap.
        marked: number of explained pairs whose ground truth marks a part of the picture.
        partly_cut: number of these of which the model sees only some of the marked part.
        wholly_cut: number of these of which it sees nothing of the marked part.
        seconds: seconds that the rank spent on these rows.
        sums: sum of each column of ``MEANS`` over the explained pairs.
    """

    done: int = 0
    failed: int = 0
    truncated: int = 0
    unknown: int = 0
    wholly_unknown: int = 0
    unread: int = 0
    animated: int = 0
    drawn: int = 0
    marked: int = 0
    partly_cut: int = 0
    wholly_cut: int = 0
    seconds: float = 0.0
    sums: tuple[float, ...] = (0.0,) * len(MEANS)

    @property
    def rows(self) -> int:
        """Number of rows, failed ones included."""
        return self.done + self.failed

    def __add__(self, other: Counts) -> Counts:
        values = {item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)[:-1]}
        return Counts(**values, sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))

    @staticmethod
    def of_truth(pair: Pair) -> Counts:
        """Return the counts over the marked part of one explained pair."""
        cut = pair.share_cut_away
        if cut is None:
            return Counts()
        return Counts(marked=1, partly_cut=int(LEAST_CUT < cut < 1), wholly_cut=int(cut == 1))

    @staticmethod
    def of(results: Iterable[Attribution], seconds: float = 0.0) -> Counts:
        """Return the counts over results.

        Args:
            results: attributions, failed ones included.
            seconds: seconds that the results took.
        """
        return sum((_count_one(result) for result in results), Counts(seconds=seconds))

    def to_json(self) -> str:
        """Return the counts as JSON, for the footer of a part."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Counts:
        """Return the counts that ``to_json`` wrote."""
        values = json.loads(text)
        return Counts(**{**values, "sums": tuple(values["sums"])})


def _count_one(result: Attribution) -> Counts:
    if result.image is None or result.text is None:
        return Counts(failed=1)
    pair, towers = result.pair, (result.image, result.text)
    last_values = [tower.last_similarity for tower in towers] + [tower.last_information for tower in towers]
    return Counts.of_truth(pair) + Counts(
        done=1,
        truncated=int(pair.truncated),
        unknown=int(pair.unknown > 0),
        wholly_unknown=int(pair.unknown == len(pair.tokens)),
        unread=int(bool(pair.unread)),
        animated=int(pair.animated),
        drawn=int(result.heatmap is not None),
        sums=(result.similarity, *(math.nan if value is None else value for value in last_values)),
    )
