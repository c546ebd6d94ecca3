"""From a heatmap to a mask and its parts: ``segment``."""

from m2ib_lightning.results.segmentation import RegionOptions, Regions, segment

__all__ = ["RegionOptions", "Regions", "segment"]
