"""Counts, time and means: ``summary.json``."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from lightning import LightningModule, Trainer
from typing_extensions import override

from m2ib_lightning.attribution import Attribution
from m2ib_lightning.callbacks.base import ResultsCallback

_SHOWN_FAILURES = 5


class RunSummary(ResultsCallback):
    """Counts the pairs and writes the summary when the run ends.

    Args:
        path: where to write.
        total: how many pairs the run is to explain.

    Attributes:
        done: pairs explained.
        failed: pairs that were not.
        failures: the first few of those, with their errors.
        truncated: captions that were longer than the model reads.
        unknown: captions with tokens that the model's vocabulary does not know.
        wholly_unknown: those of them that have no other tokens.
        animated: images with more frames than the first, which was read.
    """

    def __init__(self, path: Path, total: int) -> None:
        self.path = path
        self.total = total
        self.done = self.failed = self.truncated = self.unknown = self.wholly_unknown = self.animated = 0
        self.failures: list[Attribution] = []
        self._start = self._end = time.monotonic()
        self._sums = np.zeros(5)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic()

    @override
    def on_results(self, trainer: Trainer, results: list[Attribution]) -> None:
        for result in results:
            if result.image is None or result.text is None:
                self.failed += 1
                self.failures += [result] if len(self.failures) < _SHOWN_FAILURES else []
                continue
            self.done += 1
            self.truncated += result.pair.truncated
            self.unknown += result.pair.unknown > 0
            self.wholly_unknown += result.pair.unknown == len(result.pair.tokens)
            self.animated += result.pair.animated
            towers = (result.image, result.text)
            ends = [part.similarity[-1] for part in towers] + [part.information[-1] for part in towers]
            self._sums += [result.similarity, *ends]

    @override
    def finish(self, trainer: Trainer) -> None:
        self._end = time.monotonic()
        self.path.write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    @property
    def skipped(self) -> int:
        """Pairs that were not reached."""
        return self.total - self.done - self.failed

    def to_dict(self) -> dict[str, Any]:
        """What ``summary.json`` holds; means are null when no pair was explained."""
        seconds = self._end - self._start
        names = ("similarity", "image_similarity", "text_similarity", "image_information", "text_information")
        means = (self._sums / self.done).tolist() if self.done else [None] * len(names)
        return {
            "pairs_done": self.done,
            "pairs_failed": self.failed,
            "pairs_skipped": self.skipped,
            "seconds": seconds,
            "pairs_per_second": (self.done + self.failed) / seconds if seconds else None,
            "captions_truncated": self.truncated,
            "captions_with_unknown_tokens": self.unknown,
            "captions_wholly_unknown": self.wholly_unknown,
            "images_animated": self.animated,
            **{f"mean_{name}": value for name, value in zip(names, means, strict=True)},
        }
