"""What is counted over pairs; each part of the table carries the counts of its rows, so that they add up."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields

from m2ib_lightning.results.attribution import Attribution

MEANS = ("similarity", "image_similarity", "text_similarity", "image_information", "text_information")
"""What ``summary.json`` gives the means of."""


@dataclass(frozen=True)
class Counts:
    """Counts over some rows.

    Attributes:
        done: pairs explained.
        failed: pairs that were not.
        truncated: captions that were longer than the model reads.
        unknown: captions with tokens that the model's vocabulary does not know.
        wholly_unknown: those of them that have no other tokens.
        animated: images with more frames than the first, which was read.
        drawn: pairs with a heatmap.
        seconds: that the rank spent on these rows.
        sums: of ``MEANS``, over the pairs explained.
    """

    done: int = 0
    failed: int = 0
    truncated: int = 0
    unknown: int = 0
    wholly_unknown: int = 0
    animated: int = 0
    drawn: int = 0
    seconds: float = 0.0
    sums: tuple[float, ...] = (0.0,) * len(MEANS)

    @property
    def rows(self) -> int:
        """All pairs."""
        return self.done + self.failed

    def __add__(self, other: Counts) -> Counts:
        values = {item.name: getattr(self, item.name) + getattr(other, item.name) for item in fields(self)[:-1]}
        return Counts(**values, sums=tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))

    @staticmethod
    def of(results: Iterable[Attribution], seconds: float = 0.0) -> Counts:
        """The counts of some results."""
        return sum((_of_one(result) for result in results), Counts(seconds=seconds))

    def to_json(self) -> str:
        """For a part's footer."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str | bytes) -> Counts:
        """Back from ``to_json``."""
        values = json.loads(text)
        return Counts(**{**values, "sums": tuple(values["sums"])})


def _of_one(result: Attribution) -> Counts:
    if result.image is None or result.text is None:
        return Counts(failed=1)
    pair, towers = result.pair, (result.image, result.text)
    ends = [part.last_similarity for part in towers] + [part.last_information for part in towers]
    return Counts(
        done=1,
        truncated=int(pair.truncated),
        unknown=int(pair.unknown > 0),
        wholly_unknown=int(pair.unknown == len(pair.tokens)),
        animated=int(pair.animated),
        drawn=int(result.heatmap is not None),
        sums=(result.similarity, *(math.nan if end is None else end for end in ends)),
    )
