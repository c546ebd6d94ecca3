"""What every format of masks can do: take the regions of one pair after the other."""

from __future__ import annotations

from typing import Protocol

from m2ib_lightning.results.attribution import Attribution
from m2ib_lightning.results.segmentation import Regions


class MaskWriter(Protocol):
    """Writes the regions of many heatmaps, pair by pair."""

    def add(self, result: Attribution, mask_name: str, regions: Regions) -> None:
        """Write one pair.

        Args:
            result: the pair's attribution.
            mask_name: name of the pair's mask, ``<name>.png``, unique in the run and without path separators.
            regions: regions of the heatmap, at the picture's own size.
        """
