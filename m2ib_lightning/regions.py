"""Public import path of ``segment``, which cuts a heatmap into a mask and its connected parts."""

from m2ib_lightning.results.segmentation import RegionOptions, Regions, segment

__all__ = ["RegionOptions", "Regions", "segment"]
