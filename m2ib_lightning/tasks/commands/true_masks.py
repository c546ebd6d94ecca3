"""Compares the masks of a run with true masks, pair by pair, for ``maps-to-masks --truth``."""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from m2ib_lightning.errors import M2IBError, PairError, escaped
from m2ib_lightning.pairs.truth import RawTruth, read_truth
from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.run_lengths import dice, iou
from m2ib_lightning.results.thresholds import Mask


class TrueMasks:
    """Folder of true masks, which prints the Dice and IoU of each pair, then their means.

    Args:
        folder: folder of PNG masks.

    Raises:
        M2IBError: if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise M2IBError(f"--truth must be a folder of PNG masks, got {str(folder)!r}, which is not a folder")
        self._folder = folder
        self._counts: Counter[str] = Counter()
        self._sums = np.zeros(2)

    def compare(self, result: Attribution, name: str, mask: Mask) -> None:
        """Print the Dice and IoU of one pair, if it has a true mask.

        Args:
            result: the pair's attribution.
            name: name of the mask's file.
            mask: the mask, (H, W).
        """
        file = self._file(result.pair.id, name)
        if file is None:
            self._counts["without a truth"] += 1
            return
        try:
            truth = read_truth(RawTruth(file), result.pair.image_size)
        except PairError as error:
            _warn(f"left out: {error}")
            self._counts["with a truth that can't be read"] += 1
            return
        if truth.resized:
            _warn(f"{file.name} has another size than its picture: resized")
        if truth.mask is None or not truth.mask.any():
            self._counts["with an empty truth (nothing in it is 128 or lighter)"] += 1
            return
        scores = dice(mask, truth.mask), iou(mask, truth.mask)
        self._sums += scores
        self._counts["compared"] += 1
        _print_scores(scores, name)

    def print_means(self) -> None:
        """Print the means, and the number of pairs that are not in them."""
        compared = self._counts["compared"]
        means = (self._sums / compared).tolist() if compared else (math.nan, math.nan)
        _print_scores(means, f"mean of {compared} pairs")
        for kind, count in self._counts.items():
            if kind != "compared":
                print(f"{count} {kind}")

    def _file(self, identity: str, name: str) -> Path | None:
        """Return the file of a pair's true mask, or None; an id with path separators names no file."""
        is_plain = identity not in ("", ".", "..") and not set("/\\\0") & set(identity)
        names = [name, f"{identity}.png"] if is_plain else [name]
        return next((self._folder / n for n in names if os.path.isfile(self._folder / n)), None)


def _print_scores(scores: Sequence[float], name: str) -> None:
    print(f"dice {scores[0]:.4f}  iou {scores[1]:.4f}  {escaped(name)}")


def _warn(text: str) -> None:
    print(escaped(f"warning: {text}"), file=sys.stderr)
